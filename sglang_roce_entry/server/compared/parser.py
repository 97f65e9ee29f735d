"""SGLang's whole list of options, as the parser of its newest release has it: what a given value means.

``name|other spelling:kind=default``. Kinds: ``f`` a flag, ``b`` a flag with a ``--no-`` form, ``i`` a whole
number, ``d`` a decimal, ``h`` a number with a unit, ``j`` JSON, ``s`` a text (not written); ``+`` takes several
values. A test holds it against that parser (``srt/server_args.py``), so that what a release adds is seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

from sglang_roce_entry.server.spellings import find_option, is_value

#: 0.5.23's.
TABLE = """
model-path|model tokenizer-path tokenizer-mode=auto tokenizer-backend=huggingface tokenizer-worker-num:i=1
detokenizer-worker-num:i=1 skip-tokenizer-init:f load-format=auto model-loader-extra-config={}
trust-remote-code:f context-length:h is-embedding:f enable-multimodal:f revision model-impl=auto
model-config-parser=auto json-model-override-args={} dtype=auto quantization quantization-param-path
kv-cache-dtype=auto enable-fp32-lm-head:f modelopt-quant modelopt-checkpoint-restore-path
modelopt-checkpoint-save-path modelopt-export-path quantize-and-serve:f rl-quant-profile enable-tf32-matmul:b
mem-fraction-static:d max-running-requests:i max-queued-requests:i max-total-tokens:h chunked-prefill-size:i
prefill-decode-interval:i enable-dynamic-chunking:f max-prefill-tokens:h=16384 prefill-max-requests:i
schedule-policy=fcfs enable-priority-scheduling:f disable-priority-preemption:f default-priority-value:i
abort-on-priority-when-disabled:f schedule-low-priority-values-first:f
priority-scheduling-preemption-threshold:i=10 retraction-policy=length schedule-conservativeness:d=1.0
page-size:i c128-page-size:i=16 swa-full-tokens-ratio:d disable-hybrid-swa-memory:f radix-eviction-policy=lru
radix-eviction-policy-config:j prefill-only-disable-kv-cache:f disable-radix-cache:f
enable-page-major-kv-layout:f enable-unified-memory:f disable-chunked-prefix-cache:f disable-overlap-schedule:f
num-continuous-decode-steps:i=1 scheduler-recv-interval:i=1 enable-mixed-chunk:f nccl-port:i dist-timeout:i
dist-init-addr|nccl-init-addr gated-launch-port:i nnodes:i=1 node-rank:i=0 tp-size|tensor-parallel-size:i=1
dcp-size|decode-context-parallel-size:i=1 pp-size|pipeline-parallel-size:i=1 pp-max-micro-batch-size:i
pp-async-batch-depth:i=0 dp-size|data-parallel-size:i=1 attn-dp-size|attention-data-parallel-size:i=1
load-balance-method=auto attn-cp-size|attention-context-parallel-size:i=1
moe-dp-size|moe-data-parallel-size:i=1 dwdp-size:i=1 dcp-comm-backend dcp-replicate-q-proj:b
enable-prefill-cp:f cp-strategy enable-dsa-cache-layer-split:f enable-cp-decode-attn-tp:f
enable-kv-cache-sharding:f enable-dp-attention-local-control-broadcast:f enable-dp-lm-head:f
enable-tp-lm-head-all-to-all:b enable-attn-tp-input-scattered:f enable-shared-experts-attn-tp:f
shared-experts-tp-size:i enable-dense-mlp-attn-tp:f enable-layernorm-sp:f disable-attn-tp-gather:f
enable-p2p-check:f device base-gpu-id:i=0 gpu-id-step:i=1 random-seed:i mlx-enable-sampling:f
watchdog-timeout:d=300 soft-watchdog-timeout:d sleep-on-idle:f use-ray:f numa-node:i+ gc-threshold:i+
host=127.0.0.1 port:i=30000 fastapi-root-path= smg-grpc-mode:f grpc-mode:f grpc-port:i sidecar sidecar-args:j
skip-server-warmup:f warmups enable-http2:f http2-max-concurrent-streams:i=200
http2-initial-connection-window-size:i=1048576 ssl-keyfile ssl-certfile ssl-ca-certs ssl-keyfile-password
enable-ssl-refresh:f api-key admin-api-key served-model-name weight-version=default chat-template
trust-request-chat-template:f hf-chat-template-name completion-template file-storage-path enable-cache-report:f
return-input-ids:f return-output-ids:f default-chat-template-kwargs:j strip-thinking-cache:f
enable-strict-thinking:f tool-server sampling-defaults=model asr-max-buffer-seconds:i=60
asr-max-concurrent-sessions:i=32 preferred-sampling-params:j allow-auto-truncate:f stream-interval:i=1
batch-notify-size:i=16 stream-response-default-include-usage:f incremental-streaming-output:f
enable-streaming-session:f enable-session-radix-cache:f log-level=info log-level-http log-requests:f
log-requests-level:i=2 log-requests-format=text log-requests-target:s+ uvicorn-access-log-exclude-prefixes:s+
crash-dump-folder show-time-cost:f enable-metrics:f smg-http-sidecar-port|grpc-http-sidecar-port:i
enable-mfu-metrics:f enable-metrics-for-all-schedulers:f load-snapshot-publish-interval:i=15
tokenizer-metrics-custom-labels-header=x-custom-labels tokenizer-metrics-allowed-custom-labels:s+
extra-metric-labels:j bucket-time-to-first-token:d+ bucket-inter-token-latency:d+ bucket-e2e-request-latency:d+
prompt-tokens-buckets:s+ generation-tokens-buckets:s+ gc-warning-threshold-secs:d=0.0 decode-log-interval:i=40
enable-request-time-stats-logging:f kv-events-config load-publish-endpoint enable-forward-pass-metrics:f
forward-pass-metrics-worker-id= forward-pass-metrics-ipc-name enable-trace:f trace-modules=request
otlp-traces-endpoint=localhost:4317 export-metrics-to-file:f export-metrics-to-file-dir
constrained-json-whitespace-pattern constrained-json-disable-any-whitespace:f
constrained-json-max-whitespace-cnt:i attention-backend decode-attention-backend enable-lean-attention:f
prefill-attention-backend grammar-backend radix-cache-backend mm-attention-backend fp8-gemm-backend=auto
fp4-gemm-backend=auto bf16-gemm-backend=auto dsa-prefill-backend dsv4-prefill-backend=auto dsa-decode-backend
dsa-paged-mqa-logits-backend=auto dsa-topk-backend=sgl-kernel disable-flashinfer-autotune:f
flashinfer-autotune-skip-ops:s+ mamba-backend=triton cuda-graph-config:j cuda-graph-backend-decode
cuda-graph-backend-prefill cuda-graph-max-bs-decode:i cuda-graph-max-bs-prefill:i cuda-graph-bs-decode:i+
cuda-graph-bs-prefill:i+ cuda-graph-prefill-max-context|context-bucket:h disable-prefill-cuda-graph:f
disable-decode-cuda-graph:f disable-cuda-graph-padding:f enable-profile-cuda-graph:f enable-cudagraph-gc:f
debug-cuda-graph:f enable-layerwise-nvtx-marker:f enable-nccl-nvls:f enable-symm-mem:f
triton-attention-reduce-in-fp32:f triton-attention-num-kv-splits:i=8 triton-attention-split-tile-size:i
flashinfer-mla-disable-ragged:f enable-fused-qk-norm-rope:b enable-precise-embedding-interpolation:f
enable-fused-moe-sum-all-reduce:f enable-deepseek-v4-fp4-indexer:f disable-custom-all-reduce:f enable-mscclpp:f
enable-torch-symm-mem:f enable-scattered-sconv:f pre-warm-nccl:f boundary-reduction=auto
enable-quant-communications:f enforce-disable-flashinfer-allreduce-fusion:f flashinfer-allreduce-fusion-backend
enable-aiter-allreduce-fusion:f enable-torch-compile:f enable-torch-compile-debug-mode:f
torch-compile-max-bs:i=32 speculative-algorithm uno-lora-path
speculative-draft-model-path|speculative-draft-model speculative-draft-model-revision
speculative-draft-load-format speculative-num-steps:i speculative-eagle-topk:i speculative-num-draft-tokens:i
speculative-dflash-block-size:i speculative-dspark-block-size:i speculative-dspark-sps-table-path
speculative-dspark-confidence-sts-path speculative-dspark-align-verify-tokens-to-graph-tier:f
speculative-accept-threshold-single:d=1.0 speculative-accept-threshold-acc:d=1.0
speculative-use-rejection-sampling:f speculative-token-map speculative-attention-mode=prefill
speculative-draft-attention-backend speculative-dsa-topk-backend=sgl-kernel speculative-draft-kv-cache-dtype
speculative-draft-window-size:i speculative-moe-runner-backend speculative-moe-a2a-backend
speculative-enable-w4a4-mxfp4-megamoe:b speculative-draft-model-quantization enable-multi-layer-eagle:f
speculative-adaptive:f speculative-adaptive-config decoupled-spec-bind-endpoint
decoupled-spec-connect-endpoints:j decoupled-spec-rank:i decoupled-spec-role=null spec-trace-dir
speculative-ngram-min-bfs-breadth:i=1 speculative-ngram-max-bfs-breadth:i=10 speculative-ngram-match-type=BFS
speculative-ngram-max-trie-depth:i=18 speculative-ngram-capacity:i=10000000
speculative-ngram-external-corpus-path speculative-ngram-external-sam-budget:i=0
speculative-ngram-external-corpus-max-tokens:i=10000000 ep-size|expert-parallel-size|ep:i=1
moe-a2a-backend=none enable-w4a4-mxfp4-megamoe:f deepep-v2-mode=direct moe-runner-backend=auto
flashinfer-mxfp4-moe-precision=default deepep-mode=auto fuseep-mode:i=2 deepep-dispatcher-output-dtype=auto
ep-num-redundant-experts:i=0 ep-dispatch-algorithm init-expert-location=trivial enable-eplb:f
eplb-algorithm=auto eplb-rebalance-num-iterations:i=1000 eplb-rebalance-layers-per-chunk:i
eplb-min-rebalancing-utilization-threshold:d=1.0 expert-distribution-recorder-mode
expert-distribution-recorder-buffer-size:i expert-balancedness-report-mode=off deepep-config
moe-dense-tp-size:i elastic-ep-backend enable-elastic-expert-backup:f mooncake-ib-device enable-waterfill:f
elastic-ep-join-mode elastic-ep-join-rank-offset:i=0 elastic-ep-initial-size:i max-ep-size:i
elastic-ep-scale-timeout:d=600 disable-flashinfer-cutlass-moe-fp4-allgather:f disable-shared-experts-fusion:f
enforce-shared-experts-fusion:f max-mamba-cache-size:i mamba-ssm-dtype mamba-max-states-per-path:i=-1
enable-mamba-cache-stochastic-rounding:f mamba-cache-philox-rounds:i=0 mamba-full-memory-ratio:d
mamba-radix-cache-strategy=auto mamba-track-interval:i=256 enable-int8-mamba-checkpoint:f
int8-mamba-ckpt-size:i linear-attn-backend=triton linear-attn-decode-backend linear-attn-prefill-backend
linear-attn-verify-backend enable-linear-replayssm:f linear-replayssm-cache-len:i=16
enable-linear-replayssm-spec:f enable-hierarchical-cache|enable-hicache:f hicache-host-memory-mode=cache
hicache-ratio:d hicache-size:i=0 hicache-write-policy=write_through hicache-io-backend=kernel
hicache-mem-layout=page_first hicache-storage-backend hicache-storage-prefetch-policy=timeout
hicache-storage-backend-extra-config hicache-storage-prefetch-retry-poll-interval:i=8
hicache-storage-prefetch-retry-max-attempts:i=8 enable-unified-cache-external-linker:f
unified-cache-external-linker-backend=mooncake enable-hisparse:f
hisparse-config|hierarchical-sparse-attention-extra-config enable-broadcast-mm-inputs-process:f
enable-prefix-mm-cache:f mm-enable-dp-encoder:b mm-process-config:j mm-processor-worker-num:i=0
mm-io-worker-num:i=0 allowed-media-domains:s+ media-url-max-file-size-mb:i=64 mm-preprocess-cache-size-mb:i
trust-mm-content-hashes:f limit-mm-data-per-request:j enable-mm-global-cache:f image-processor-backend=auto
mm-global-cache-backend=mooncake disable-fast-image-processor:f mm-feature-transport enable-lora:f
enable-lora-overlap-loading:f max-lora-rank:i lora-target-modules:s+ lora-paths:s+ max-loaded-loras:i
max-loras-per-batch:i=8 lora-eviction-policy=lru lora-backend=csgmv max-lora-chunk-size:i=16
experts-shared-outer-loras:b lora-use-virtual-experts:f lora-strict-loading:b lora-drain-wait-threshold:d=0.0
enable-two-batch-overlap:f enable-single-batch-overlap:f tbo-token-distribution-threshold:d=0.48
cpu-offload-gb:i=0 offload-group-size:i=-1 offload-num-in-group:i=1 offload-prefetch-step:i=1 offload-mode=cpu
enable-lmcache:f lmcache-config-file enable-flexkv:f flexkv-config-file kt-weight-path kt-method=AMXINT4
kt-cpuinfer:i kt-threadpool-count:i=2 kt-num-gpu-experts:i kt-max-deferred-experts-per-token:i dllm-algorithm
dllm-algorithm-config dllm-fdfo:b=true disaggregation-mode=null disaggregation-transfer-backend=mooncake
disaggregation-bootstrap-port:i=8998 disaggregation-ib-device disaggregation-decode-enable-radix-cache:f
disaggregation-decode-enable-offload-kvcache:f disaggregation-decode-retraction-backup
num-reserved-decode-tokens:i=512 disaggregation-decode-extra-slots:i disaggregation-decode-polling-interval:i=1
optimistic-prefill-attempts:i=0 encoder-only:f language-only:f language-model-only:f
encoder-transfer-backend=auto encoder-urls:s+ encoder-bootstrap-port:i=8997 encoder-register-urls:s+
enable-adaptive-dispatch-to-encoder:f enable-pdmux:f pdmux-config-path sm-group-num:i=8
startup-weight-load-mode=serial custom-weight-loader:s+ weight-loader-disable-mmap:f
weight-loader-prefetch-checkpoints:f weight-loader-prefetch-num-threads:i=4
weight-loader-drop-cache-after-load:f remote-instance-weight-loader-seed-instance-ip
remote-instance-weight-loader-seed-instance-service-port:i
remote-instance-weight-loader-send-weights-group-ports:j remote-instance-weight-loader-backend=nccl
remote-instance-weight-loader-start-seed-via-transfer-engine:f engine-info-bootstrap-port:i=6789
modelexpress-config download-dir model-checksum:s+ delete-ckpt-after-loading:f decrypted-config-file
decrypted-draft-config-file checkpoint-engine-wait-weights-before-ready:f enable-prefill-delayer:f
prefill-delayer-max-delay-passes:i=30 prefill-delayer-token-usage-low-watermark:d
prefill-delayer-forward-passes-buckets:d+ prefill-delayer-wait-seconds-buckets:d+
prefill-delayer-queue-min-ratio:d prefill-delayer-max-delay-ms:d min-free-slots-delay:i
enable-deterministic-inference:f rl-on-policy-target kv-canary=none kv-canary-sweep-interval:i=0
enable-dynamic-batch-tokenizer:f dynamic-batch-tokenizer-batch-size:i=32
dynamic-batch-tokenizer-batch-timeout:d=0.002 enable-tokenizer-batch-encode:f disable-tokenizer-batch-decode:f
debug-tensor-dump-output-folder debug-tensor-dump-layers:i+ debug-tensor-dump-input-file enable-memory-saver:f
enable-weights-cpu-backup:f enable-draft-weights-cpu-backup:f enable-custom-logit-processor:f
enable-return-hidden-states:f return-hidden-states-mode enable-return-routed-experts:f
enable-return-indexer-topk:f sampling-mask-max-tokens:i=4096 disable-outlines-disk-cache:f enable-mis:f
weight-cache-mode=off weight-cache-socket weight-cache-timeout:i=1800 forward-hooks:j msprobe-dump-config
ple-offload-embedding:b ple-offload-backend=pinned ple-offload-dir disaggregation-enable-kv-checksum:f
enable-pd-role-switch:f speculative-domino-candidate-pool-size:i=2048 flashinfer-a2a-dispatch-type
cuda-graph-max-seq-len-prefill:i prefill-kv-cache-dequant-dtype=auto dsv4-attn-backend=auto otlp-service-name
hicache-host-memory-fraction:d=0.8 enable-linker-mla-dedup:f swa-prefix-tails:i
enable-encoder-swa-bounded-replay:f enable-decoder-swa-bounded-replay:b enable-response-store:f
disaggregation-decode-host-receive-threshold:d=1.0 qsa-indexer-dtype=auto
disaggregation-decode-allocation-policy=early speculative-use-block-verification:f
speculative-draft-sink-size:i disable-aiter-allreduce-fusion-in-prefill:f
disable-aiter-allreduce-fusion-in-decode:f enable-amd-monokernel:f dsa-triton-union:i=0
enable-dsa-fused-indexer:b enable-watermark:f watermark-config grpc-response-timeout-secs:i=300
enable-paged-experts:f paged-experts-num-resident:i enable-nvidia-megakernel:f
enable-megamoe-for-layernorm-sp:f enable-http-worker-reuseport:f prefill-decode-interval-min-bs:i=0
unified-cache-external-linker-config:j enable-return-aux-hidden-states:f return-aux-hidden-state-layer-ids:i+
sampling-backend reasoning-parser tool-call-parser kv-canary-real-data=none config disable-cuda-graph:f
enable-dp-attention:f monokernel-backend enable-flashinfer-allreduce-fusion:f
"""

FLAG, ON_OR_OFF, WHOLE, DECIMAL, UNITS, JSON = "f", "b", "i", "d", "h", "j"
_UNITS = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True, slots=True)
class Known:
    """One option of the list, by its first spelling without dashes."""

    name: str
    spellings: tuple[str, ...]
    kind: str
    several: bool
    default: str


@cache
def known_options() -> dict[str, Known]:
    """Return every option by each of its spellings, without dashes."""
    found = {}
    for entry in TABLE.split():
        declared, _, default = entry.partition("=")
        spelled, _, kind = declared.partition(":")
        names = tuple(spelled.split("|"))
        option = Known(names[0], names, kind.removesuffix("+") or "s", kind.endswith("+"), default)
        found.update(dict.fromkeys(names, option))
    return found


def read_options(tokens: Sequence[str]) -> dict[str, str]:
    """Return what ``tokens`` give, by the option's first spelling, each value in one spelling.

    As argparse reads them: the last one wins, a beginning that only one option has is that option. What
    has its default's value is left out: SGLang cannot tell it from what was not given. An option that is
    not in the list takes what follows it, as it stands.
    """
    found: dict[str, str] = {}
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if not token.startswith("--") or token == "--":
            continue
        spelled, equals, value = token.partition("=")
        values = [value] if equals else []
        name, option, negated = _meant(spelled.removeprefix("--"))
        takes = 0 if option is not None and option.kind in (FLAG, ON_OR_OFF) else _count(option)
        while not equals and len(values) < takes and position < len(tokens) and is_value(tokens[position]):
            values.append(tokens[position])
            position += 1
        found[name] = _one_spelling(option, values, negated=negated)
    return {f"--{name}": value for name, value in found.items() if not _is_default(name, value)}


def _count(option: Known | None) -> int:
    return 1 if option is not None and not option.several else 1000


def _meant(spelled: str) -> tuple[str, Known | None, bool]:
    """Return the name of an option here, the option itself if it is in the list, and whether it is negated."""
    options = known_options()
    if spelled in options:
        return options[spelled].name, options[spelled], False
    positive = options.get(spelled.removeprefix("no-"))
    if spelled.startswith("no-") and positive is not None and positive.kind == ON_OR_OFF:
        return positive.name, positive, True
    ours = find_option(f"--{spelled}")
    if ours is not None:
        name = ours.name.removeprefix("--")
        return name, options.get(name), False
    candidates = {option.name for name, option in options.items() if name.startswith(spelled)}
    if len(candidates) == 1:
        name = candidates.pop()
        return name, options[name], False
    return spelled, None, False


def _is_default(name: str, value: str) -> bool:
    option = known_options().get(name)
    return option is not None and bool(option.default) and value == _one_spelling(option, [option.default])


def _one_spelling(option: Known | None, values: Sequence[str], *, negated: bool = False) -> str:
    if option is None:
        return " ".join(values) if values else "true"
    if option.kind in (FLAG, ON_OR_OFF):
        return "false" if negated else "true"
    return " ".join(_plain(option.kind, value) for value in values)


def _plain(kind: str, text: str) -> str:
    """Return one value as its type prints it; what SGLang would refuse stays as it is."""
    try:
        if kind == WHOLE:
            return str(int(text))
        if kind == DECIMAL:
            return str(float(text))
        if kind == JSON or text[:1] in ("{", "["):  # some options take JSON as a text
            return json.dumps(json.loads(text), sort_keys=True)
        if kind == UNITS:
            number = re.fullmatch(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|k|M|G|T)", text.strip())
            return str(int(Decimal(number[1]) * _UNITS[number[2]])) if number else str(int(text))
    except (ValueError, RecursionError, OverflowError):
        return text
    return text
