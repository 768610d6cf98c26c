# Clusters for tests (e2e/cluster): what is built is kept in ~/.cache/watchbill-e2e and found again by any clone.
#
# E2E_USE_CLUSTER=1 make e2e      uses the cluster of the current kubeconfig, builds and removes nothing
# E2E_NODE_IMAGE=... make e2e     takes another node image for kind
# make e2e ARGS="-k drain"        hands words to pytest

CLUSTER := $(BIN)/python -m e2e.cluster
.PHONY: control-plane test-cluster bench-cluster image e2e e2e-up e2e-down

control-plane: $(DEV)  ## Run a bare Kubernetes control plane, without pods, until Ctrl-C
	@$(CLUSTER) build control-plane
	@$(CLUSTER) control-plane

test-cluster: $(DEV)  ## Test the operator on a bare control plane: Go builds it, 9 minutes the first time
	@$(CLUSTER) build control-plane helm charts
	$(BIN)/pytest e2e/control_plane --numprocesses 2 --dist loadfile $(ARGS)

bench-cluster: $(DEV)  ## Measure the operator on a bare control plane, 500 crews; with pods: ARGS=--kind
	@$(CLUSTER) build control-plane
	$(BIN)/python -m bench.operator_bench $(ARGS)

e2e: $(DEV)  ## Test with pods, on a kind cluster of its own: Linux, root; or E2E_USE_CLUSTER=1
ifndef E2E_USE_CLUSTER
	@$(CLUSTER) build kind helm
endif
	$(BIN)/pytest e2e/kind $(ARGS)

e2e-up: $(DEV)  ## Make a kind cluster with Watchbill in it, and print what to try
	@$(CLUSTER) build kind helm
	@$(CLUSTER) up

e2e-down: $(DEV)  ## Remove that cluster, and what was started for it
	@$(CLUSTER) down

IMAGE ?= watchbill
TAG ?= dev
image: $(DEV)  ## Build the images, watchbill-worker:dev and watchbill-operator:dev (IMAGE=name TAG=tag)
	@$(CLUSTER) image $(IMAGE)-worker:$(TAG) --target worker
	@$(CLUSTER) image $(IMAGE)-operator:$(TAG) --target operator
