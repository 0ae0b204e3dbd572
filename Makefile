# Everything a developer calls; what each does is in scripts/.

# The Postgres to use: 15, 16, 17 or 18.
PG ?= 17
# Once more without shared memory: what is about counters, and differs there.
TABLE_PATH_TESTS = agreement concurrency concurrent_limits direct_writes housekeeping_races import once \
	regress rollback rows_without_statements rule_edits rule_reach
# Tested beside the server: pure crates, that the benchmark runs, and what calls cost (scripts/price-oracle.sh).
BESIDES = ai_limiter_domain ai_limiter_tokens ai_limiter_model ai_limiter_bench
# Only these files of tests; all without it.
TESTS ?=
# What speaks to the server itself, and so could differ from one Postgres to the next. 15 and 18 run all;
# what lies between them runs this.
SERVER_TESTS = caller_sessions caught_errors config_races corrections crash direct_writes dump_restore \
	estimates focus hostile_session import invoice last_part library_upgrade litellm loading memory_bulk \
	memory_holds memory_visibility once oracle plain_postgres pricing regress reprice roles rollback rollup \
	rollup_backdated rows_without_statements rule_edits standby torture worker_lifecycle
# For demo: a CSV file of model calls to replay.
TRACE ?=
# For bench: the rows to measure, as within,reserve; all without it.
ROWS ?=
# For bench: further arguments, as --quick.
ARGS ?=
# Where random cases and torture begin, and how long torture goes on.
SEED ?= 1
ROUNDS ?= 100

# The same random cases each time, so that what fails is the change's own doing; make test SEED=2 has others.
export PROPTEST_RNG_SEED ?= $(SEED)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo psql test test-all bench torture lint clean-server

help:
	@echo 'make demo [TRACE=file.csv]  see what the extension does, on a throwaway server'
	@echo 'make psql                   a shell on that server'
	@echo 'make clean-server           stop that server and remove its data'
	@echo 'make test                   all tests; make test PG=15|16|17|18 picks the Postgres'
	@echo 'make test-all               on each Postgres: all tests on 15, 17 and 18, what differs on 16'
	@echo 'make bench [ROWS=a,b]       what it costs, beside what it is compared with'
	@echo 'make torture [SEED=1] [ROUNDS=100]  kill the server and its processes at random moments'
	@echo 'make lint                   format, clippy, docs, dependencies, and the SQL'
	@echo
	@echo 'Each installs what it needs and says so. Postgres itself goes to target/.'

demo:
	@scripts/server.sh $(PG) demo $(if $(TRACE),'$(TRACE)')

psql:
	@scripts/server.sh $(PG) psql

clean-server:
	@scripts/server.sh $(PG) stop

test:
	scripts/install-tools.sh
	scripts/build.sh $(PG)
	scripts/with-postgres.sh $(PG) cargo test --no-fail-fast -p ai_limiter_tests $(BESIDES:%=-p %) \
		$(TESTS:%=--test %)
	AI_LIMITER_TEST_TABLE_PATH=1 scripts/with-postgres.sh $(PG) cargo test --no-fail-fast \
		-p ai_limiter_tests $(TABLE_PATH_TESTS:%=--test %)
	$(if $(BESIDES),scripts/price-oracle.sh)

# What is pure Rust, or the same SQL everywhere, is tested beside one of them.
test-all:
	AI_LIMITER_ORACLE_SECONDS=10 $(MAKE) test PG=15 BESIDES= TABLE_PATH_TESTS=regress
	AI_LIMITER_ORACLE_SECONDS=10 $(MAKE) test PG=16 BESIDES= TABLE_PATH_TESTS=regress TESTS='$(SERVER_TESTS)'
	$(MAKE) test PG=17
	AI_LIMITER_ORACLE_SECONDS=10 $(MAKE) test PG=18 BESIDES= TABLE_PATH_TESTS=regress

bench:
	@scripts/bench.sh $(PG) $(if $(ROWS),--rows $(ROWS)) $(ARGS)

# The round that fails says how it is run alone.
torture:
	scripts/build.sh $(PG)
	AI_LIMITER_TORTURE_SEED=$(SEED) AI_LIMITER_TORTURE_ROUNDS=$(ROUNDS) \
		scripts/with-postgres.sh $(PG) cargo test -p ai_limiter_tests --test torture -- --nocapture

lint:
	scripts/install-tools.sh lint
	scripts/lint.sh
