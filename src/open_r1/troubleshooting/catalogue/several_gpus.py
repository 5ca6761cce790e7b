"""Processes and GPUs that work together."""

from __future__ import annotations

from open_r1.troubleshooting.entry import Entry, Group

SEVERAL_GPUS = Group(
    "Several GPUs",
    (
        Entry(
            "nccl-timeout",
            "NCCL: a collective timed out",
            (
                "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=412, OpType=ALLREDUCE, "
                "NumelIn=1, "
                "NumelOut=1, Timeout(ms)=600000) ran for 600012 milliseconds before timing out.",
                "Some NCCL operations have failed or timed out. Due to the asynchronous nature of CUDA kernels, "
                "subsequent GPU "
                "operations might run on corrupted/incomplete data.",
                "RuntimeError: [../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting "
                "1800000ms for "
                "recv operation to complete",
                "torch.distributed.DistBackendError: [3] is setting up NCCL communicator and retrieving ncclUniqueId "
                "from [0] "
                "via c10d key-value store by key '0', but store->get('0') got error: wait timeout after 600000ms",
            ),
            (
                r"Watchdog caught collective operation timeout",
                r"NCCL operations have failed or timed out",
                r"Timed out waiting \d+ ?ms for (?:recv|send) operation",
                r"wait timeout after \d+ms",
            ),
            "one process waited for the others, and they did not come[[ ({kind}, on rank {rank}, for {limit} ms)]]. "
            "Either one "
            "of them has failed before (its words stand further up), or they cannot reach each other.",
            (
                "export NCCL_P2P_DISABLE=1  # where GPUs of one machine do not reach each other",
                "export NCCL_IB_DISABLE=1  # where InfiniBand is there and does not work",
                "export NCCL_SOCKET_IFNAME=eth0  # several machines: the interface that joins them (ip addr)",
                "export NCCL_DEBUG=INFO  # says which way NCCL takes",
            ),
            ("open-r1 doctor --only all_reduce links shared_memory", "docs/distributed.md"),
            details=(r"\[Rank (?P<rank>\d+)\]", r"OpType=(?P<kind>\w+)", r"Timeout\(ms\)=(?P<limit>\d+)"),
        ),
        Entry(
            "nccl-remote",
            "NCCL: another process has gone",
            (
                "torch.distributed.DistBackendError: NCCL error: remote process exited or there was a network error, "
                "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting "
                "prematurely.",
                "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer "
                "[10.0.0.2]:4711",
            ),
            (r"\bncclRemoteError\b", r"gloo.*Connection (?:closed|reset) by peer"),
            "another process of the run has ended, so this one cannot go on. The reason is what that other one said.",
            ("grep -n -m1 -A5 '^error:' train.log  # the first words are those that count",),
            ("open-r1 doctor --only all_reduce", "docs/distributed.md"),
        ),
        Entry(
            "nccl-error",
            "NCCL: unhandled error",
            (
                "torch.distributed.DistBackendError: NCCL error in: "
                "../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, "
                "unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5",
                "ncclUnhandledCudaError: Call to CUDA function failed.",
                "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.",
                "ncclInternalError: Internal check failed.",
            ),
            (
                r"\b(?P<kind>nccl(?:UnhandledCuda|System|Internal)Error)\b",
                r"unhandled (?:cuda|system) error",
                r"\bDistBackendError: NCCL error",
            ),
            "NCCL, which carries numbers between GPUs, failed[[ ({kind})]]: mostly one of its ways does not work on "
            "this "
            "machine (peer to peer through a virtual machine, InfiniBand, NVLink's multicast), or /dev/shm is too "
            "small.",
            (
                "export NCCL_P2P_DISABLE=1  # GPUs of a virtual machine or behind an IOMMU",
                "export NCCL_IB_DISABLE=1  # where InfiniBand is there and does not work",
                "export NCCL_NVLS_ENABLE=0  # NVLink's multicast",
                "docker run --shm-size 16g …  # or --ipc host",
                "export NCCL_DEBUG=INFO  # says which of them it was",
            ),
            ("open-r1 doctor --only all_reduce links shared_memory", "docs/distributed.md"),
        ),
        Entry(
            "port-in-use",
            "the port is in use",
            (
                "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network "
                "address. port: "
                "29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
                "OSError: [Errno 98] Address already in use",
                "ConnectionError: Tried to launch distributed communication on port `29500`, but another process is "
                "utilizing "
                "it.",
            ),
            (
                r"failed to listen on any local network address",
                r"\[Errno 98\]|\bAddress already in use|\bEADDRINUSE\b",
                r"distributed communication on port",
            ),
            "the port[[ {port}]] is in use: another run, or one that has not quite ended, listens there.",
            (
                "accelerate launch --main_process_port 0 …  # 0 finds a free one",
                "ss -ltnp  # names who listens where",
                "--port 8001  # serve-vllm; its trainer then has --vllm_server_port 8001",
                "--vllm_group_port 51217  # grpo: the port that weights are sent through",
            ),
            ("docs/distributed.md", "docs/vllm-server.md"),
            details=(r"\bport:? `?(?P<port>\d{2,5})",),
        ),
        Entry(
            "rendezvous",
            "the processes do not find each other",
            (
                "torch.distributed.DistNetworkError: The client socket has timed out after 600000ms while trying to "
                "connect to "
                "(10.0.0.1, 29500).",
                "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients "
                "joined.",
                "torch.distributed.elastic.rendezvous.api.RendezvousTimeoutError",
            ),
            (
                r"client socket has (?:timed out|failed)",
                r"connect to \((?P<address>[^,)]+), (?P<port>\d+)\)",
                r"waiting for clients\. (?P<joined>\d+/\d+) clients joined",
                r"\bRendezvous(?:Timeout|Connection|Closed)Error\b",
            ),
            "the processes of the run did not find each other[[: nothing answers at {address}:{port}]][[: {joined} "
            "came]].",
            (
                "accelerate launch --main_process_ip IP --main_process_port 29500 --machine_rank 0 …  # same IP on "
                "each",
                "nc -zv IP 29500  # does a firewall stand between them?",
                "unset MASTER_ADDR MASTER_PORT  # left over from an earlier run",
            ),
            ("docs/distributed.md",),
        ),
    ),
)
