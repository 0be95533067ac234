"""How `scripts/kubernetes-manifests` works: flags -> facts of the cluster -> refusals, or the policies' text; or the check."""
