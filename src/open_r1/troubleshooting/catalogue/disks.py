"""Disks, files and permissions."""

from __future__ import annotations

from open_r1.troubleshooting.entry import Entry, Group

_PATH = r"(?:Errno|os error) \d+\)?\]? [\w ,/'-]+?: '(?P<path>[^']+)'"
_MOVE = "open-r1 setup --data-disk /data  # all caches to the data disk; nothing is deleted"

DISKS = Group(
    "Disks and files",
    (
        Entry(
            "disk-full",
            "no space left on device",
            (
                "OSError: [Errno 28] No space left on device: '/root/.cache/huggingface/hub/tmp1'",
                "safetensors_rust.SafetensorError: Error while serializing: I/O error: No space left on device (os "
                "error 28)",
                "RuntimeError: [enforce fail at inline_container.cc:603] . unexpected pos 704 vs 598",
                "Not enough free disk space to download the file. The expected file size is: 4976.70 MB. The target "
                "location "
                "only has 812.11 MB free disk space.",
            ),
            (
                r"\[Errno 28\]|No space left on device|os error 28\b",
                r"inline_container\.cc.*unexpected pos",
                r"Not enough free disk space",
            ),
            "the disk is full[[: {path} could not be written]]. Or it has no inodes left (df -i).",
            (
                _MOVE,
                "--output_dir /data/runs/1  # checkpoints to another disk",
                "--save_total_limit 1  # keeps one checkpoint; --save_strategy no keeps none",
                "--resume_from_checkpoint true  # goes on from the last checkpoint",
            ),
            ("open-r1 doctor --only cache_disks output_disk", "docs/setup.md"),
            details=(_PATH,),
        ),
        Entry(
            "quota",
            "disk quota exceeded",
            ("OSError: [Errno 122] Disk quota exceeded: '/home/ada/.cache/huggingface'",),
            (r"\[Errno 122\]|Disk quota exceeded|os error 122\b",),
            "the space that you are granted on this disk is used up[[: {path} could not be written]]; on clusters home "
            "folders "
            "are small, and work folders are large.",
            (
                _MOVE,
                "--output_dir /data/runs/1  # checkpoints to another disk",
                "quota -s  # what is granted, and what is used",
            ),
            ("open-r1 doctor --only cache_disks output_disk", "docs/setup.md"),
            details=(_PATH,),
        ),
        Entry(
            "read-only",
            "read-only file system",
            ("OSError: [Errno 30] Read-only file system: '/workspace/runs'",),
            (r"\[Errno 30\]|Read-only file system|os error 30\b",),
            "the disk is mounted for reading only[[ ({path})]], or the kernel has made it so after an error of the "
            "disk.",
            (
                "--output_dir /data/runs/1  # a disk that can be written",
                _MOVE,
                "mount | grep ' / '  # ro or rw; dmesg says whether the disk has errors",
            ),
            ("open-r1 doctor --only cache_disks output_disk",),
            details=(_PATH,),
        ),
        Entry(
            "open-files",
            "too many open files",
            (
                "OSError: [Errno 24] Too many open files",
                "RuntimeError: received 0 items of ancdata",
                "OSError: [Errno 23] Too many open files in system",
            ),
            (r"\[Errno 2[34]\]|Too many open files|os error 24\b", r"received \d items of ancdata"),
            "the process may not open more files; many systems allow 1,024.",
            (
                "ulimit -n 65536  # in the shell that starts the run",
                "--dataset_num_proc 1  # fewer processes, fewer files",
                "docker run --ulimit nofile=65536:65536 …",
            ),
            ("open-r1 doctor --only open_files",),
        ),
        Entry(
            "too-many-processes",
            "can't start new thread",
            (
                "RuntimeError: can't start new thread",
                "BlockingIOError: [Errno 11] Resource temporarily unavailable",
                "OpenBLAS blas_thread_init: pthread_create failed for thread 12 of 64: Resource temporarily "
                "unavailable",
            ),
            (r"can't start new thread", r"\[Errno 11\] Resource temporarily unavailable", r"pthread_create failed"),
            "no more processes or threads may be started: the limit of the user or of the container is reached.",
            (
                "export OMP_NUM_THREADS=4  # fewer threads a process",
                "--dataset_num_proc 1  # grpo: --reward_workers 2",
                "docker run --pids-limit -1 …  # ulimit -u shows the limit of the user",
            ),
            ("open-r1 doctor --only cpu",),
        ),
        Entry(
            "file-locks",
            "no locks available",
            ("OSError: [Errno 37] No locks available", "OSError: [Errno 116] Stale file handle: '/nfs/cache/x.lock'"),
            (r"\[Errno 37\]|No locks available", r"\[Errno 116\]|Stale file handle"),
            "the disk is a network disk that does not lock files, or has lost one[[ ({path})]].",
            (
                "open-r1 setup --data-disk /local  # caches to a disk of this machine",
                "--token_cache_dir /tmp/tokens",
            ),
            ("open-r1 doctor --only cache_disks",),
            details=(_PATH,),
        ),
        Entry(
            "disk-error",
            "input/output error",
            ("OSError: [Errno 5] Input/output error: '/data/model.safetensors'",),
            (r"\[Errno 5\]|Input/output error|os error 5\b",),
            "the disk, or the network disk, failed while it was read or written[[ ({path})]].",
            (
                "dmesg | tail  # names the disk and the fault",
                "--output_dir /other/disk/run",
                "--resume_from_checkpoint true  # goes on from the last checkpoint",
            ),
            ("open-r1 doctor --only cache_disks output_disk",),
            details=(_PATH,),
        ),
        Entry(
            "not-a-folder",
            "a file lies where a folder is to be",
            (
                "File \".../pathlib.py\", line 1116, in mkdir\nFileExistsError: [Errno 17] File exists: 'data.jsonl'",
                'File ".../pathlib.py", line 1116, in mkdir\n'
                "NotADirectoryError: [Errno 20] Not a directory: 'data.jsonl/run'",
            ),
            (r"\bFileExistsError: \[Errno 17\]", r"\bNotADirectoryError: \[Errno 20\]"),
            "a folder was to be made[[: {path}]], and a file has that name, or the name of a folder above it.",
            ("--output_dir runs/1  # a name that no file has",),
            details=(_PATH,),
            where=r'(?:pathlib\S*|/os)\.py(?::|", line \d+, in )(?:mkdir|makedirs)\b',
        ),
        Entry(
            "home-folder",
            "could not determine home directory",
            ("RuntimeError: Could not determine home directory.",),
            (r"Could not determine home directory",),
            "a path begins with ~ and the name of a user that there is not; or ~ alone is used, and HOME is not set.",
            (
                "--output_dir /home/ada/runs/1  # the path written out; so too data, models and caches",
                "export HOME=/root  # in a container that has none",
            ),
        ),
        Entry(
            "port-permission",
            "a port that needs root",
            (
                "PermissionError: [Errno 13] Permission denied: bind",
                "error while attempting to bind on address: permission denied",
            ),
            (r"Permission denied.*\bbind\b|\bbind\b.*[Pp]ermission denied",),
            "ports below 1024 belong to root.",
            ("--port 8000  # any port above 1023",),
            ("docs/vllm-server.md",),
        ),
        Entry(
            "permission",
            "permission denied",
            ("PermissionError: [Errno 13] Permission denied: '/root/.cache/huggingface/token'",),
            (r"\[Errno 13\]|PermissionError: .*Permission denied|os error 13\b",),
            "you may not read or write[[ {path}]]: it belongs to somebody else, often to root after a run with sudo or "
            "in a "
            "container.",
            (
                'sudo chown -R "$(id -u)" ~/.cache         # takes the caches back',
                "open-r1 setup --data-disk ~/data  # or keeps them in a folder of your own",
                "--output_dir ~/runs/1",
            ),
            ("open-r1 doctor --only cache_disks output_disk", "docs/setup.md"),
            details=(_PATH,),
        ),
    ),
)
