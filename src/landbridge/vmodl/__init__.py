"""The vSphere wire protocol on pyVmomi's type registry: SOAP in, typed calls out; a client. It knows no inventory."""
