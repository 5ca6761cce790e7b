"""The Hugging Face Hub, and the way to it."""

from __future__ import annotations

from open_r1.troubleshooting.entry import Entry, Group

_URL = r"(?:[Uu]rl:?|at:?) (?P<url>https?://[^\s'\"]+?)[.,)]*(?:\s|$)"
_MIRROR = "export HF_ENDPOINT=https://hf-mirror.com  # a mirror, where the hub itself is not reached"
_LOGIN = "hf auth login  # or export HF_TOKEN=…; a token that may read is enough"
_LOCAL = "--model_name_or_path /data/MODEL  # a folder on this machine, copied from elsewhere"

HUB = Group(
    "The hub",
    (
        Entry(
            "hub-gated",
            "a gated model: 403",
            (
                "huggingface_hub.errors.GatedRepoError: 403 Client Error.\n\nCannot access gated repo for url "
                "https://huggingface.co/meta-llama/Llama-3.2-1B/resolve/main/config.json.",
                "OSError: You are trying to access a gated repo.\nMake sure to have access to it at "
                "https://huggingface.co/meta-llama/Llama-3.2-1B.",
            ),
            (
                r"\bGatedRepoError\b",
                r"access a gated repo|access gated repo|is a gated (?:repository|dataset)",
            ),
            "the owner of[[ {repo},]] what is asked for grants access to people one by one, and this token has none.",
            (
                "https://huggingface.co/REPOSITORY  # open it, log in, and accept the conditions",
                _LOGIN,
            ),
            ("open-r1 doctor --only tokens hub",),
            details=(
                r"(?:access to it at|gated repo for url) https?://[\w.:-]+/(?P<repo>(?:datasets/)?[\w.-]+/[\w-]+(?:\.[\w-]+)*)",
            ),
        ),
        Entry(
            "hub-401",
            "401: no token, or a wrong one",
            (
                "huggingface_hub.errors.HfHubHTTPError: 401 Client Error: Unauthorized for url: "
                "https://huggingface.co/api/whoami-v2",
                "Invalid user token.",
                "Invalid credentials in Authorization header",
                "huggingface_hub.errors.LocalTokenNotFoundError: Token is required (`token=True`), but no token found.",
                '403 Forbidden: You don\'t have the rights to create a model under the namespace "ada".',
            ),
            (
                r"401 Client Error: Unauthorized(?!.*\bwandb\.ai\b)",
                r"\b401 Unauthorized(?!.*\bwandb\.ai\b)",
                r"Invalid (?:user token|username or password|credentials in Authorization header)",
                r"\bLocalTokenNotFoundError\b",
                r"\b403 (?:Client Error: )?Forbidden: (?!.*(?:rate|\bwandb\.ai\b))",
            ),
            "the hub does not accept the token, or needs one[[ ({url})]]; to upload it must be one that may write.",
            (
                _LOGIN,
                "unset HF_TOKEN  # where an old one stands in the environment",
                "--push_to_hub false  # trains without uploading",
            ),
            ("open-r1 doctor --only tokens hub",),
            details=(_URL,),
        ),
        Entry(
            "hub-rate",
            "429: too many requests",
            (
                "huggingface_hub.errors.HfHubHTTPError: 429 Too Many Requests: you have reached your 'api' rate "
                "limit.\nRetry "
                "after 210 seconds",
                "429 Client Error: Too Many Requests for url: https://huggingface.co/api/models/x",
            ),
            (r"\b429 (?:Client Error: )?Too Many Requests",),
            "the hub was asked too often from this address[[; it answers again in {wait} seconds]]. Without a token "
            "all of a "
            "data centre may share one allowance.",
            (
                _LOGIN,
                "export HF_HUB_OFFLINE=1  # where all is in the cache already",
                _MIRROR,
            ),
            ("open-r1 doctor --only hub tokens",),
            details=(r"Retry after (?P<wait>\d+) seconds",),
        ),
        Entry(
            "hub-404",
            "404: no such model, data set or revision",
            (
                "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.\n\nRepository Not Found for url: "
                "https://huggingface.co/api/models/Qwen/Qwen2.5-1.5B-Instrct.",
                "OSError: Qwen/Qwen2.5-1.5B-Instrct is not a local folder and is not a valid model identifier listed "
                "on "
                "'https://huggingface.co/models'",
                "huggingface_hub.errors.RevisionNotFoundError: 404 Client Error.\n\nRevision Not Found for url: "
                "https://huggingface.co/api/models/Qwen/Qwen2.5-1.5B/revision/v9.",
                "huggingface_hub.errors.RemoteEntryNotFoundError: 404 Client Error.\n\nEntry Not Found for url: "
                "https://huggingface.co/Qwen/Qwen2.5-1.5B/resolve/main/nope.json.",
                "datasets.exceptions.DatasetNotFoundError: Dataset 'ada/nope' doesn't exist on the Hub or cannot be "
                "accessed.",
                "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
                "'namespace/repo_name'",
            ),
            (
                r"\b(?:Repository|Revision|RemoteEntry)NotFoundError\b",
                r"(?P<repo>[\w./-]+) is not a local folder and is not a valid model identifier",
                r"is not a valid git identifier",
                # A hub id, or none that is told; a path is of the entry weights-missing.
                r"(?:^|[\s'\"])(?P<repo>[\w-][\w.-]*(?:/[\w.-]+)?) does not appear to have a file named",
                r"\bDatasetNotFoundError\b",
                r"Dataset '(?P<repo>[^']+)' doesn't exist on the Hub",
                r"\bHFValidationError\b",
                r"\b404 (?:Client Error|Not Found)",
            ),
            "the hub does not have this[[: {repo}]][[ ({url})]]: the name, the revision or the file is misspelt, or it "
            "is "
            "private and the token may not see it.",
            (
                "--model_name_or_path OWNER/NAME  # as its page has it; data: --dataset_name OWNER/NAME",
                "--model_revision main",
                _LOGIN,
            ),
            ("open-r1 doctor --only hub tokens",),
            details=(_URL,),
        ),
        Entry(
            "hub-certificate",
            "SSL: certificate verify failed",
            (
                "httpx.ConnectError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local "
                "issuer "
                "certificate (_ssl.c:1006)",
                "requests.exceptions.SSLError: HTTPSConnectionPool(host='huggingface.co', port=443): Max retries "
                "exceeded",
            ),
            (r"CERTIFICATE_VERIFY_FAILED", r"\bSSLError\b", r"certificate has expired"),
            "the certificate of the other side is not trusted: a proxy of the company stands between, or the clock of "
            "this "
            "machine is wrong.",
            (
                "export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
                "export REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt",
                "date  # is it today?",
                _MIRROR,
            ),
            ("open-r1 doctor --only hub clock",),
        ),
        Entry(
            "hub-proxy",
            "the proxy refuses",
            (
                "httpx.ProxyError: 407 Proxy Authentication Required",
                "requests.exceptions.ProxyError: HTTPSConnectionPool(host='huggingface.co', port=443): Max retries "
                "exceeded with "
                "url: / (Caused by ProxyError('Unable to connect to proxy', OSError('Tunnel connection failed: 403 "
                "Forbidden')))",
            ),
            (r"\bProxyError\b", r"Proxy Authentication Required"),
            "the proxy that the environment names does not pass the request on.",
            (
                "env | grep -i proxy  # is it the right one?",
                "unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY",
                _MIRROR,
            ),
            ("open-r1 doctor --only hub",),
        ),
        Entry(
            "hub-offline",
            "offline by setting, and not in the cache",
            (
                "huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach https://huggingface.co/api/models/x: "
                "offline mode is "
                "enabled. To disable it, please unset the `HF_HUB_OFFLINE` environment variable.",
                "ConnectionError: Couldn't reach 'ada/data' on the Hub (OfflineModeIsEnabled)",
                "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the requested files in the disk cache and "
                "outgoing traffic has been disabled.",
            ),
            (
                r"\bOfflineModeIsEnabled\b",
                r"offline mode is enabled",
                r"outgoing traffic has been disabled",
            ),
            "HF_HUB_OFFLINE is set, and what is asked for is not in the cache.",
            (
                "unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE HF_DATASETS_OFFLINE",
                "hf download OWNER/NAME  # on a machine with network; then carry the cache over",
                _LOCAL,
            ),
            ("open-r1 doctor --only hub cache_disks", "docs/setup.md"),
        ),
        Entry(
            "hub-unreachable",
            "the hub is not reached",
            (
                "huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file on "
                "the Hub and "
                "we cannot find the requested files in the local cache.",
                "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in "
                "the cached "
                "files.",
                "httpx.ConnectTimeout: timed out",
                "httpx.ConnectError: [Errno -3] Temporary failure in name resolution",
                "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='huggingface.co', port=443): Max "
                "retries exceeded "
                "with url: /api/models/x",
                "requests.exceptions.ReadTimeout: HTTPSConnectionPool(host='cdn-lfs.huggingface.co', port=443): Read "
                "timed out.",
                "huggingface_hub.errors.HfHubHTTPError: 503 Server Error: Service Unavailable for url: "
                "https://huggingface.co/x",
                "ConnectionError: Couldn't reach 'ada/data' on the Hub (ConnectionError)",
            ),
            (
                r"\bLocalEntryNotFoundError\b",
                r"We couldn't connect to '(?P<url>[^']+)'",
                r"\bhttpx2?(?:\.\w+)*\.(?:Connect|Read|Write|Pool)?(?:Timeout|Error)\b",
                r"name resolution|Name or service not known|getaddrinfo failed",
                r"requests\.exceptions\.\w*(?:Connection|Timeout)\w*",
                r"HTTPSConnectionPool\(host='(?P<url>[^']+)'",
                r"\b50[0234] Server Error|Server error '5\d\d",
                r"Couldn't reach '[^']+' on the Hub",
                r"Network is unreachable",
            ),
            "the hub is not reached[[ ({url})]], and what is asked for is not in the cache of this machine.",
            (
                _MIRROR,
                "export HF_HUB_DOWNLOAD_TIMEOUT=60  # where the line is slow",
                _LOCAL,
            ),
            ("open-r1 doctor --only hub",),
        ),
        Entry(
            "hub-transfer",
            "hf_transfer or hf_xet is missing",
            (
                "ValueError: Fast download using 'hf_transfer' is enabled (HF_HUB_ENABLE_HF_TRANSFER=1) but "
                "'hf_transfer' package "
                "is not available in your environment.",
                "RuntimeError: Data processing error: CAS service error : ReqwestMiddleware Error: Request failed "
                "after 5 retries",
            ),
            (r"HF_HUB_ENABLE_HF_TRANSFER=1", r"\bCAS service error\b"),
            "a faster way to download is switched on, and its package is missing or does not get through.",
            (
                "unset HF_HUB_ENABLE_HF_TRANSFER",
                "export HF_HUB_DISABLE_XET=1  # the plain way",
            ),
            ("open-r1 doctor --only hub",),
        ),
    ),
)
