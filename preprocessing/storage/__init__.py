"""Local folders and object stores behind one protocol, and the file formats kept in them."""
