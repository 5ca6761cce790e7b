"""Checkpoints, configurations and tokenizers."""

from __future__ import annotations

from open_r1.troubleshooting.entry import Entry, Group

_LOCAL_PATH = r"(?:[~.]{0,2}/|[\w.-]+/[\w.-]+/)\S*"
"""No hub id: it begins with a slash, a dot or a tilde, or has more than one slash."""

_AGAIN = "hf download OWNER/NAME --force-download  # fetches the model again"

MODEL_FILES = Group(
    "Models and tokenizers",
    (
        Entry(
            "torn-weights",
            "a file of weights is torn",
            (
                "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge",
                "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: header too large",
                "safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer",
                "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, "
                "file not "
                "fully covered",
                "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory",
                "_pickle.UnpicklingError: invalid load key, 'v'.",
                "EOFError: Ran out of input",
            ),
            (
                r"\bSafetensorError: Error while deserializing",
                r"PytorchStreamReader failed",
                r"UnpicklingError: (?:invalid load key|pickle data was truncated|unpickling stack underflow)",
                r"EOFError: Ran out of input",
            ),
            "a file of weights is not whole: the download was cut, the disk was full, or it is a Git LFS pointer of "
            "some "
            "hundred bytes instead of the file.",
            (
                "ls -lL MODEL/*.safetensors  # weights are hundreds of MB; a pointer is 135 bytes",
                _AGAIN,
                "git lfs pull  # in a folder that was cloned",
                "--resume_from_checkpoint true  # own checkpoints: takes the last that is whole",
            ),
            ("open-r1 doctor --only cache_disks", "docs/never-lose-a-run.md"),
        ),
        Entry(
            "torn-config",
            "config.json is broken",
            (
                "OSError: It looks like the config file at '/data/model/config.json' is not a valid JSON file.",
                "ValueError: Unrecognized model in /data/model. Should have a `model_type` key in its config.json",
            ),
            (
                r"config file at '(?P<path>[^']+)' is not a valid JSON",
                r"Unrecognized model in (?P<path>\S+?)\. Should have a `model_type`",
            ),
            "the description of the model[[ in {path}]] is cut, or is not one.",
            (_AGAIN, "--model_name_or_path MODEL  # the folder that holds config.json itself"),
        ),
        Entry(
            "torn-tokenizer",
            "tokenizer.json is broken",
            (
                'File ".../transformers/tokenization_utils_base.py", line 1730, in _from_pretrained\n'
                "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
            ),
            (r"\bJSONDecodeError\b",),
            "tokenizer.json or another file of the tokenizer is cut, or it is a Git LFS pointer of some hundred bytes "
            "instead of the file.",
            (
                "ls -lL MODEL/tokenizer*.json  # tokenizer.json has some MB; a pointer has 135 bytes",
                _AGAIN,
                "git lfs pull  # in a folder that was cloned",
            ),
            where=r'/tokenization_\w+\.py(?::[a-z_]|", line)|model/load\.py(?::|", line \d+, in )load_tokenizer',
        ),
        Entry(
            "config-value",
            "config.json has a value that transformers does not take",
            (
                'File ".../transformers/configuration_utils.py", line 433, in dtype\n'
                "AttributeError: module 'torch' has no attribute 'float99'",
                'File ".../transformers/configuration_utils.py", line 159, in __init__\n'
                "huggingface_hub.errors.StrictDataclassFieldValidationError: Validation error for field 'hidden_size':",
            ),
            (r"\bStrictDataclass\w*Error: ", r"module 'torch' has no attribute '"),
            "config.json of the model has a value that transformers does not take: it was edited, or is of another "
            "version.",
            (
                "hf download OWNER/NAME config.json --force-download  # fetches it again",
                "pip install --upgrade transformers  # where the model is newer than it",
            ),
            ("open-r1 doctor --only packages",),
            where=r'transformers/configuration_utils\.py(?::[a-z_]|", line)',
        ),
        Entry(
            "weights-missing",
            "the folder holds no weights, or not all files",
            (
                "OSError: Error no file named model.safetensors, or pytorch_model.bin, found in directory /data/model.",
                "OSError: Can't load the model for '/data/run/checkpoint-500'.",
                "OSError: /data/model does not appear to have a file named config.json.",
            ),
            (
                r"Error no file named .*found in directory (?P<path>\S+?)\.?$",
                r"Can't load the (?:model|configuration|tokenizer) (?:for|of) '(?P<path>[^']+)'",
                rf"(?:^|[\s'\"])(?P<path>{_LOCAL_PATH}) does not appear to have a file named",
            ),
            "weights or other files are missing[[ in {path}]]: the checkpoint was not finished, was copied in part, or "
            "the folder is the one above it.",
            (
                "ls OUTPUT_DIR  # checkpoint-N, or the final model itself",
                "--model_name_or_path OUTPUT_DIR/checkpoint-500",
            ),
            ("docs/never-lose-a-run.md",),
        ),
        Entry(
            "shapes-differ",
            "size mismatch for …",
            (
                "RuntimeError: Error(s) in loading state_dict for Qwen2ForCausalLM:\n\tsize mismatch for "
                "lm_head.weight: copying "
                "a param with shape torch.Size([151936, 896]) from checkpoint, the shape in current model is "
                "torch.Size([151665, 896]).",
            ),
            (r"size mismatch for (?P<weight>[\w.]+)", r"You set `ignore_mismatched_sizes` to `False`"),
            "weights and config.json are not of the same model[[: {weight} has another shape]]. Often files of two "
            "models lie "
            "in one folder, or the tokenizer was enlarged and the model was not.",
            (_AGAIN, "--output_dir NEW_FOLDER  # one folder for each model"),
        ),
        Entry(
            "pickle-refused",
            "a pickle that is not opened",
            (
                "_pickle.UnpicklingError: Weights only load failed. This file can still be loaded, to do so you have "
                "two options",
                "ValueError: Due to a serious vulnerability issue in `torch.load`, even with `weights_only=True`, we "
                "now require "
                "users to upgrade torch to at least v2.6",
            ),
            (r"Weights only load failed", r"serious vulnerability issue in `torch\.load`"),
            "the file is a pickle, which can run any program when it is opened, and holds more than numbers.",
            ("--model_name_or_path MODEL  # a version with .safetensors; most models have one",),
        ),
        Entry(
            "remote-code",
            "the model brings code of its own",
            (
                "ValueError: The repository ada/model contains custom code which must be executed to correctly load "
                "the model. "
                "You can inspect the repository content at https://hf.co/ada/model .\nPlease pass the argument "
                "`trust_remote_code=True` to allow custom code to be run.",
            ),
            (r"(?P<repo>[\w./-]+) contains custom code which must be executed", r"allow custom code to be run"),
            "the model[[ {repo}]] comes with Python code that must run to load it; nothing runs it unasked.",
            (
                "--trust_remote_code  # after you have read that code: it can do what you can",
                "--model_revision COMMIT  # the commit that you have read",
            ),
        ),
        Entry(
            "unknown-model-type",
            "transformers does not know the model",
            (
                "ValueError: The checkpoint you are trying to load has model type `qwen9` but Transformers does not "
                "recognize this "
                "architecture.",
                "KeyError: 'qwen9'\n  File \".../transformers/models/auto/configuration_auto.py\"",
                "ValueError: Unrecognized configuration class <class 'X'> for this kind of AutoModel: "
                "AutoModelForCausalLM.",
            ),
            (
                r"has model type `(?P<kind>[^`]+)` but Transformers does not recognize",
                r"KeyError: '(?P<kind>\w+)'\s+File .*configuration_auto\.py",
                r"Unrecognized configuration class",
            ),
            "this transformers does not know models of the type[[ {kind}]]: it is older than the model, or the model "
            "writes no "
            "text.",
            ("pip install --upgrade transformers  # then open-r1 doctor: is it one that open-r1 runs with?",),
            ("open-r1 doctor --only packages",),
        ),
        Entry(
            "no-chat-template",
            "the tokenizer has no chat template",
            (
                "ValueError: Cannot use chat template functions because tokenizer.chat_template is not set and no "
                "template "
                "argument was passed!",
                "jinja2.exceptions.TemplateError: Conversation roles must alternate user/assistant/user/assistant/...",
                "jinja2.exceptions.TemplateError: System role not supported",
            ),
            (r"tokenizer\.chat_template is not set", r"jinja2\.exceptions\.\w+", r"System role not supported"),
            "the tokenizer has no chat template, as base models often do not, or its template refuses the "
            "conversation.",
            (
                "--chat_template template.jinja  # a file, or the template itself; evaluate has it too",
                "--system_prompt ''  # where the template knows no system turn",
            ),
            ("docs/data.md",),
        ),
        Entry(
            "tokenizer-backend",
            "the tokenizer cannot be built",
            (
                "ValueError: Couldn't instantiate the backend tokenizer from one of: (1) a `tokenizers` library "
                "serialization file",
                "ImportError: LlamaTokenizer requires the SentencePiece library but it was not found in your "
                "environment.",
                "Exception: data did not match any variant of untagged enum ModelWrapper at line 757443 column 3",
                "ImportError: This modeling file requires the following packages that were not found in your "
                "environment: tiktoken",
            ),
            (
                r"Couldn't instantiate the backend tokenizer",
                r"requires the (?P<package>SentencePiece|tiktoken|protobuf) library",
                r"untagged enum ModelWrapper",
                r"requires the following packages that were not found in your environment: (?P<package>\w+)",
            ),
            "the tokenizer's files are of another kind or version than this tokenizers reads[[: {package} is "
            "missing]].",
            ("pip install sentencepiece tiktoken protobuf", "pip install --upgrade tokenizers transformers"),
            ("open-r1 doctor --only packages",),
        ),
        Entry(
            "vocabulary",
            "tokenizer and model do not fit",
            ("IndexError: index out of range in self",),
            (r"IndexError: index out of range in self", r"Token id \d+ is out of vocabulary"),
            "a token has a number that the model has no row for: tokenizer and model are of different checkpoints.",
            ("--model_name_or_path MODEL  # whose tokenizer has no more tokens than the model has rows",),
        ),
    ),
)
