"""Results in netCDF files, which may come from strangers: what they claim is checked before memory is taken."""

from nearzero.support.netcdf.files import listed_texts, load_netcdf, netcdf_content, parsing_loaded

__all__ = ["listed_texts", "load_netcdf", "netcdf_content", "parsing_loaded"]
