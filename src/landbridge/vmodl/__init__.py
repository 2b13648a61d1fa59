"""The vSphere wire protocol on pyVmomi's type registry: SOAP in, typed calls out. It knows no inventory."""
