# `make` lists what there is. Everything is made in .venv and node_modules; nothing is installed on the system.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help environment up test lock fuzz images

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

environment:
	@scripts/environment

up: environment ## start the server at http://127.0.0.1:8000 (PORT=8001 make up: another port); Ctrl-C stops it
	@$(if $(PORT),GRADLAB_PORT=$(PORT)) .venv/bin/gradlab up

.PHONY: demo
demo: environment ## see a class before there is one: the server with simulated learners and GPUs (PORT=8001 as above)
	@$(if $(PORT),GRADLAB_PORT=$(PORT)) .venv/bin/gradlab demo

test: environment ## lint, types, import directions and all tests that can run here (ARGS="-k name": some of them)
	@scripts/test $(ARGS)

lock: environment ## resolve the dependencies anew: requirements.lock and package-lock.json
	@scripts/lock

images: ## build the container images, without network but for what is loaded first (TORCH=cu130: with CUDA)
	@scripts/images

.PHONY: secrets down backup restore
secrets: ## write into .env what a hosted server needs and it has not yet: names, codes, keys, passwords
	@scripts/secrets

down: ## stop a hosted server and learners' servers; homes and databases stay
	@scripts/down

backup: ## write databases, homes, .env and config.d of a hosted server into backups/, while it runs
	@scripts/backup

restore: ## put a backup back into a server that is down (FILE=backups/….tar; FORCE=1: over what is there)
	@scripts/restore $(if $(FORCE),--force) "$(FILE)"

fuzz: environment ## look for input that the wire and its two ends do not stand (SECONDS=60: each of three targets)
	@mkdir -p var
	@for target in unpack student agent; do \
	  .venv/bin/python -m tests.fuzz.fuzz_$$target -max_total_time=$(or $(SECONDS),60) -artifact_prefix=var/ || exit; \
	done

.PHONY: bench
bench: environment ## how long a check takes, beside nbgrader, otter-grader and papermill (QUICK=1: fewer rounds, no page)
	@.venv/bin/python -m bench.checks $(if $(QUICK),--quick)

.PHONY: bench-hosting
bench-hosting: environment ## how long a server takes to start, beside a bare DockerSpawner; needs the images (QUICK=1 as above)
	@.venv/bin/python -m bench.spawn $(if $(QUICK),--quick)

.PHONY: bench-gpu
bench-gpu: environment ## what watching GPUs costs, beside nvitop and gpustat, on simulated ones (QUICK=1 as above)
	@.venv/bin/python -m bench.gpu $(if $(QUICK),--quick)
