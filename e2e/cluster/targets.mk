# Clusters for tests (e2e/cluster): what is built is kept in ~/.cache/watchbill-e2e and found again by any clone.
#
# E2E_USE_CLUSTER=1 make e2e      uses the cluster of the current kubeconfig, builds and removes nothing
# E2E_NODE_IMAGE=... make e2e     takes another node image for kind
# make e2e ARGS="-k drain"        hands words to pytest

CLUSTER := $(BIN)/python -m e2e.cluster
.PHONY: control-plane test-cluster soak bench-cluster image e2e e2e-up e2e-down monitor pictures

control-plane: $(DEV)  ## Run a bare Kubernetes control plane, without pods, until Ctrl-C
	@$(CLUSTER) build control-plane
	@$(CLUSTER) control-plane

# Most of a test's time is waiting, for what the operator does every so often: three at a time keep a core busy. Each
# process has a control plane of its own.
test-cluster: $(DEV)  ## Test the operator on a bare control plane: Go builds it, 9 minutes the first time
	@$(CLUSTER) build control-plane helm charts monitoring
	$(BIN)/pytest e2e/control_plane --numprocesses 3 --dist loadfile $(ARGS)

SOAK := ROUNDS=250 AWAY_SECONDS=30 DROPPED_SECONDS=900
soak: $(DEV)  ## Test the operator for long: 250 rounds of scale-in, outages of 30 s, packets dropped for 15 minutes
	@$(CLUSTER) build control-plane
	env $(SOAK) $(BIN)/pytest e2e/control_plane/test_operator_rounds.py e2e/control_plane/test_operator_outages.py $(ARGS)

bench-cluster: $(DEV)  ## Measure the operator on a bare control plane, 500 crews; with pods: ARGS=--kind
	@$(CLUSTER) build control-plane
	$(BIN)/python -m bench.operator_bench $(ARGS)

e2e: $(DEV)  ## Test with pods, on a kind cluster of its own: Linux, root; or E2E_USE_CLUSTER=1
ifndef E2E_USE_CLUSTER
	@$(CLUSTER) build kind helm
endif
	$(BIN)/pytest e2e/kind $(ARGS)

e2e-up: $(DEV)  ## Make a kind cluster with Watchbill in it, and print what to try; MONITORING=1: with Prometheus
	@$(CLUSTER) build kind helm $(if $(MONITORING),monitoring)
	@$(CLUSTER) up $(if $(MONITORING),--monitoring)

e2e-down: $(DEV)  ## Remove that cluster, and what was started for it
	@$(CLUSTER) down

IMAGE ?= watchbill
TAG ?= dev
image: $(DEV)  ## Build the images, watchbill-worker:dev, -worker-llm:dev and -operator:dev (IMAGE=name TAG=tag)
	@$(CLUSTER) image $(IMAGE)-worker:$(TAG) --target worker
	@$(CLUSTER) image $(IMAGE)-worker-llm:$(TAG) --target worker-llm
	@$(CLUSTER) image $(IMAGE)-operator:$(TAG) --target operator

# TARGETS="127.0.0.1:8081 ..." make monitor           looks at processes of yours, started with --health-port
# PROMETHEUS=http://127.0.0.1:9090 make monitor       asks one that runs
# BOARD=fleet|crew|operator|store CREW=namespace/name ONCE=1 make monitor
MONITOR := PYTHONPATH=charts $(BIN)/python -m e2e.monitor
monitor: $(DEV)  ## Watchbill's boards in the terminal, on a Prometheus over the example at work; ONCE=1
	@$(MONITOR) $(if $(TARGETS),--targets $(TARGETS)) $(if $(PROMETHEUS),--prometheus $(PROMETHEUS)) \
		$(if $(BOARD),--board $(BOARD)) $(if $(CREW),--crew $(CREW)) $(if $(ONCE),--once)

pictures: $(DEV)  ## Write docs/monitoring/*.svg, the boards as they are while all alerts fire: as make test-cluster
	@$(CLUSTER) build control-plane helm monitoring
	PICTURES=docs/monitoring $(BIN)/pytest -q e2e/control_plane/test_alerts_fired.py
