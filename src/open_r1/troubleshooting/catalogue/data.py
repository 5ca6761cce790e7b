"""Data sets."""

from __future__ import annotations

from open_r1.troubleshooting.entry import Entry, Group

DATA = Group(
    "Data",
    (
        Entry(
            "data-script",
            "data set scripts are no longer supported",
            ("RuntimeError: Dataset scripts are no longer supported, but found gsm8k.py",),
            (r"Dataset scripts are no longer supported",),
            "this data set is a Python program, which the library datasets no longer runs.",
            ("--dataset_name data.parquet  # its files, downloaded; jsonl, json and parquet are read",),
            ("docs/data.md",),
        ),
        Entry(
            "data-config",
            "the data set has several configurations",
            (
                "ValueError: Config name is missing.\nPlease pick one among the available configs: ['main', "
                "'socratic']",
                "ValueError: BuilderConfig 'mian' not found. Available: ['main', 'socratic']",
            ),
            (
                r"Config name is missing",
                r"BuilderConfig '?(?P<asked>[^']+)'? not found",
            ),
            "the data set has several parts, and none, or one that it does not have, was named[[; there are {there}]].",
            ("--dataset_config main",),
            ("docs/data.md",),
            details=(r"(?:available configs|Available): (?P<there>\[[^\]]*\])",),
        ),
        Entry(
            "data-split",
            "unknown split",
            ("ValueError: Unknown split \"test\". Should be one of ['train'].",),
            (r"Unknown split \"(?P<asked>[^\"]+)\"",),
            "the data set has no split[[ {asked}]][[; there are {there}]].",
            ("--dataset_train_split train  # held-out: --dataset_test_split test, or --eval_strategy no",),
            ("docs/data.md",),
            details=(r"Should be one of (?P<there>\[[^\]]*\])",),
        ),
        Entry(
            "data-column",
            "a column is missing",
            (
                "ValueError: Column name ['messages'] not in the dataset. Current columns in the dataset: ['text']",
                "ValueError: Column 'messages' doesn't exist.",
                "KeyError: \"Column messages not in the dataset. Current columns in the dataset: ['text']\"",
            ),
            (r"Column (?:name )?\[?'?(?P<column>\w+)'?\]? (?:not in the dataset|doesn't exist)",),
            "the data has no column[[ {column}]][[; it has {there}]].",
            (
                "--messages_column conversations  # or --prompt_column … --completion_column …",
                "--prompt_column problem --answer_column solution  # grpo",
            ),
            ("docs/data.md",),
            details=(r"Current columns in the dataset: (?P<there>\[[^\]]*\])",),
        ),
        Entry(
            "data-files",
            "no data files",
            (
                "FileNotFoundError: Unable to find '/data/train.jsonl'",
                "FileNotFoundError: Couldn't find any data file at /data/train.",
                "datasets.data_files.EmptyDatasetError: The directory at /data/train doesn't contain any data files",
            ),
            (
                r"FileNotFoundError: Unable to find '(?P<path>[^']+)'",
                r"Couldn't find any data file at (?P<path>\S+?)\.(?:\s|$)",
                r"The directory at (?P<path>\S+) doesn't contain any data files",
            ),
            "there are no data files[[ at {path}]]; jsonl, json and parquet are read, from a file or a folder.",
            ("--dataset_name ./data/train.jsonl  # seen from the folder that the command runs in",),
            ("docs/data.md",),
        ),
        Entry(
            "data-broken",
            "the data cannot be read",
            (
                "datasets.exceptions.DatasetGenerationError: An error occurred while generating the dataset",
                "pyarrow.lib.ArrowInvalid: JSON parse error: Invalid value. in row 17",
                "datasets.table.CastError: Couldn't cast",
                "json.decoder.JSONDecodeError: Expecting ',' delimiter: line 1 column 27 (char 26)",
                "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
                "pyarrow.lib.ArrowInvalid: Parquet magic bytes not found in footer. Either the file is corrupted or "
                "this is not "
                "a parquet file.",
            ),
            (
                r"\bDatasetGeneration\w*Error\b",
                r"JSON parse error: .*?in row (?P<row>\d+)",
                r"\bJSON parse error\b",
                r"\bCouldn't cast\b",
                r"\bJSONDecodeError\b",
                r"codec can't decode byte",
                r"Parquet magic bytes not found",
                r"\bArrowInvalid\b",
            ),
            "a file of the data is broken, or its rows do not have the same columns and types[[: row {row} of a "
            "block]].",
            (
                """python -c 'import json, sys; [json.loads(l) for l in sys.stdin]' < data.jsonl  # names the line""",
                "hf download OWNER/NAME --repo-type dataset --force-download  # fetches it again",
            ),
            ("docs/data.md",),
        ),
    ),
)
