"""The managed objects, one module per family. Importing a module makes its classes known to the inventory."""
