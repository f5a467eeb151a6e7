"""`xnemo ui`: a local web page that animates portraits."""
