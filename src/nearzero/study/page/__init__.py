"""The page of a study: its contents come from the study's folder and data, its layout from `nearzero.page`."""
