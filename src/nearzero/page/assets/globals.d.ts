// The libraries of the page, which are global there; their own types aren't needed.
declare const vega: any;
declare const vegaLite: any;
declare const vegaInterpreter: any;
