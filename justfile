# Recipes for people; the scripts in hack/ do the work and need no just.

# list the recipes
default:
    @just --list

# compile everything, fast
check:
    cargo check --workspace --all-targets

# formatting, clippy, shellcheck, licences
lint:
    hack/test lint

# the crates' own tests, no root needed
test-unit:
    hack/test unit

# the binary as a container runtime (root)
test-oci:
    hack/test oci

# checkpoints and restores (root)
test-criu:
    hack/test criu

# the library's handles, and youki's containers through hiber-criu (root)
test-library:
    hack/test library

# podman, containerd and Docker with hiber (root)
test-clients:
    hack/test clients

# some tests in a virtual machine with cgroup v2 alone (root)
test-vm:
    hack/test vm

# every test
test:
    hack/test

# redis put to sleep and woken (root)
demo:
    hack/demo

# the release binary; prints its path
build:
    hack/build

# which functions the common commands call, for the linker (root)
order:
    hack/order

# speed beside runc, crun and bare CRIU; writes docs/performance.md (root)
bench:
    hack/bench

# counts of system calls, instructions and allocations against those on record (root)
bench-check:
    hack/bench-check

# the documents as a book; prints its directory
docs:
    hack/docs
