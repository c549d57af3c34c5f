"""The tests' own Kubernetes: a real control plane, built from Go modules, run as plain processes."""
