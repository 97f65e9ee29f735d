"""Which of SGLang's arguments all ranks of a group must share, which may differ, and what a card says of them.

Every rank builds its own part of one model and its own, equal, schedule: whatever changes shapes, the order of
collectives, the layout of the cache or the drawing of samples must be the same everywhere. What only the
leader's HTTP server reads, and what names this node, may differ. The rest is a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sglang_roce_entry.server.compared.parser import read_options
from sglang_roce_entry.server.redaction import redacted
from sglang_roce_entry.server.spellings import OPTIONS


def _named(text: str) -> frozenset[str]:
    return frozenset(f"--{name}" for name in text.split())


_SIZES = """
nnodes tp-size pp-size dp-size attn-dp-size attn-cp-size moe-dp-size dcp-size dwdp-size ep-size enable-dp-attention
moe-dense-tp-size shared-experts-tp-size ep-num-redundant-experts elastic-ep-initial-size max-ep-size
elastic-ep-backend pp-max-micro-batch-size pp-async-batch-depth dcp-replicate-q-proj enable-prefill-cp cp-strategy
enable-cp-decode-attn-tp enable-dp-lm-head enable-tp-lm-head-all-to-all enable-attn-tp-input-scattered
enable-shared-experts-attn-tp enable-dense-mlp-attn-tp enable-layernorm-sp disable-attn-tp-gather
load-balance-method enable-dp-attention-local-control-broadcast
"""
_MODEL = """
model-path tokenizer-path tokenizer-mode skip-tokenizer-init load-format revision model-impl model-config-parser
json-model-override-args context-length is-embedding enable-multimodal dtype quantization quantization-param-path
kv-cache-dtype enable-fp32-lm-head enable-tf32-matmul modelopt-quant modelopt-checkpoint-restore-path
rl-quant-profile mamba-ssm-dtype qsa-indexer-dtype prefill-kv-cache-dequant-dtype deepep-dispatcher-output-dtype
flashinfer-mxfp4-moe-precision random-seed enable-deterministic-inference rl-on-policy-target device
enable-lora max-lora-rank lora-target-modules lora-paths max-loaded-loras max-loras-per-batch lora-backend
max-lora-chunk-size experts-shared-outer-loras lora-use-virtual-experts uno-lora-path dllm-algorithm
dllm-algorithm-config dllm-fdfo language-only language-model-only encoder-only init-expert-location
ep-dispatch-algorithm enable-eplb eplb-algorithm eplb-rebalance-num-iterations eplb-rebalance-layers-per-chunk
disable-shared-experts-fusion enforce-shared-experts-fusion mm-enable-dp-encoder
"""
_CACHE = """
mem-fraction-static max-running-requests max-total-tokens chunked-prefill-size prefill-decode-interval
prefill-decode-interval-min-bs enable-dynamic-chunking max-prefill-tokens prefill-max-requests schedule-policy
enable-priority-scheduling disable-priority-preemption default-priority-value schedule-low-priority-values-first
priority-scheduling-preemption-threshold retraction-policy schedule-conservativeness page-size c128-page-size
swa-full-tokens-ratio disable-hybrid-swa-memory radix-eviction-policy radix-eviction-policy-config
prefill-only-disable-kv-cache disable-radix-cache enable-page-major-kv-layout enable-unified-memory
disable-chunked-prefix-cache disable-overlap-schedule num-continuous-decode-steps scheduler-recv-interval
enable-mixed-chunk enable-session-radix-cache enable-streaming-session enable-kv-cache-sharding
enable-dsa-cache-layer-split enable-hierarchical-cache hicache-ratio hicache-size hicache-write-policy
hicache-io-backend hicache-mem-layout hicache-storage-backend hicache-storage-prefetch-policy
enable-unified-cache-external-linker unified-cache-external-linker-backend enable-hisparse hisparse-config
enable-lmcache enable-flexkv max-mamba-cache-size mamba-max-states-per-path mamba-full-memory-ratio
mamba-radix-cache-strategy mamba-track-interval enable-int8-mamba-checkpoint int8-mamba-ckpt-size
enable-linear-replayssm linear-replayssm-cache-len enable-linear-replayssm-spec swa-prefix-tails
num-reserved-decode-tokens disaggregation-decode-extra-slots disaggregation-decode-polling-interval
disaggregation-decode-enable-radix-cache disaggregation-decode-enable-offload-kvcache
disaggregation-decode-allocation-policy optimistic-prefill-attempts enable-prefill-delayer
prefill-delayer-max-delay-passes prefill-delayer-token-usage-low-watermark prefill-delayer-queue-min-ratio
min-free-slots-delay enable-pdmux pdmux-config-path sm-group-num
"""
_BACKENDS = """
attention-backend decode-attention-backend prefill-attention-backend mm-attention-backend grammar-backend
radix-cache-backend sampling-backend fp8-gemm-backend fp4-gemm-backend bf16-gemm-backend mamba-backend
dsa-prefill-backend dsa-decode-backend dsa-paged-mqa-logits-backend dsa-topk-backend dsv4-prefill-backend
dsv4-attn-backend linear-attn-backend linear-attn-decode-backend linear-attn-prefill-backend
linear-attn-verify-backend moe-a2a-backend moe-runner-backend deepep-mode deepep-v2-mode deepep-config fuseep-mode
enable-w4a4-mxfp4-megamoe flashinfer-a2a-dispatch-type enable-waterfill dcp-comm-backend disable-custom-all-reduce
enable-nccl-nvls enable-symm-mem enable-mscclpp enable-torch-symm-mem enable-quant-communications
enable-flashinfer-allreduce-fusion enforce-disable-flashinfer-allreduce-fusion flashinfer-allreduce-fusion-backend
enable-aiter-allreduce-fusion disable-aiter-allreduce-fusion-in-prefill disable-aiter-allreduce-fusion-in-decode
disable-flashinfer-cutlass-moe-fp4-allgather enable-fused-moe-sum-all-reduce boundary-reduction
enable-two-batch-overlap enable-single-batch-overlap tbo-token-distribution-threshold enable-torch-compile
torch-compile-max-bs disable-cuda-graph cuda-graph-config cuda-graph-backend-decode cuda-graph-backend-prefill
cuda-graph-max-bs-decode cuda-graph-max-bs-prefill cuda-graph-bs-decode cuda-graph-bs-prefill
cuda-graph-prefill-max-context cuda-graph-max-seq-len-prefill disable-prefill-cuda-graph disable-decode-cuda-graph
disable-cuda-graph-padding disaggregation-mode disaggregation-transfer-backend disaggregation-bootstrap-port
encoder-transfer-backend
"""
_SPECULATION = """
speculative-algorithm speculative-draft-model-path speculative-draft-model-revision speculative-draft-load-format
speculative-num-steps speculative-eagle-topk speculative-num-draft-tokens speculative-dflash-block-size
speculative-dspark-block-size speculative-dspark-align-verify-tokens-to-graph-tier
speculative-accept-threshold-single speculative-accept-threshold-acc speculative-use-rejection-sampling
speculative-use-block-verification speculative-token-map speculative-attention-mode
speculative-draft-attention-backend speculative-dsa-topk-backend speculative-draft-kv-cache-dtype
speculative-draft-window-size speculative-draft-sink-size speculative-moe-runner-backend
speculative-moe-a2a-backend speculative-enable-w4a4-mxfp4-megamoe speculative-draft-model-quantization
speculative-domino-candidate-pool-size enable-multi-layer-eagle speculative-adaptive speculative-adaptive-config
speculative-ngram-min-bfs-breadth speculative-ngram-max-bfs-breadth speculative-ngram-match-type
speculative-ngram-max-trie-depth speculative-ngram-capacity decoupled-spec-role
"""
#: Options of the table of spellings that 0.5.23 no longer has.
_EARLIER = "enable-deepep-moe"

MUST_AGREE = _named(_SIZES + _MODEL + _CACHE + _BACKENDS + _SPECULATION + _EARLIER)

_OF_THE_NODE = """
node-rank dist-init-addr nccl-port host port base-gpu-id gpu-id-step numa-node disaggregation-ib-device
mooncake-ib-device config download-dir decoupled-spec-rank decoupled-spec-bind-endpoint elastic-ep-join-rank-offset
gated-launch-port engine-info-bootstrap-port weight-cache-socket forward-pass-metrics-worker-id
forward-pass-metrics-ipc-name
"""
_LOGS = """
log-level log-level-http log-requests log-requests-level log-requests-format log-requests-target crash-dump-folder
show-time-cost enable-metrics enable-mfu-metrics enable-metrics-for-all-schedulers decode-log-interval
enable-request-time-stats-logging gc-warning-threshold-secs enable-trace trace-modules otlp-traces-endpoint
otlp-service-name export-metrics-to-file export-metrics-to-file-dir bucket-time-to-first-token
bucket-inter-token-latency bucket-e2e-request-latency prompt-tokens-buckets generation-tokens-buckets
extra-metric-labels tokenizer-metrics-custom-labels-header tokenizer-metrics-allowed-custom-labels
uvicorn-access-log-exclude-prefixes load-snapshot-publish-interval load-publish-endpoint
debug-tensor-dump-output-folder debug-tensor-dump-layers spec-trace-dir
"""
_HTTP = """
fastapi-root-path grpc-mode smg-grpc-mode grpc-port grpc-response-timeout-secs smg-http-sidecar-port sidecar
sidecar-args skip-server-warmup warmups enable-http2 enable-http-worker-reuseport http2-max-concurrent-streams
http2-initial-connection-window-size ssl-keyfile ssl-certfile ssl-ca-certs enable-ssl-refresh served-model-name
chat-template trust-request-chat-template hf-chat-template-name completion-template file-storage-path
enable-cache-report default-chat-template-kwargs tool-server tool-call-parser reasoning-parser sampling-defaults
preferred-sampling-params stream-response-default-include-usage tokenizer-worker-num detokenizer-worker-num
asr-max-buffer-seconds asr-max-concurrent-sessions enable-response-store
"""
#: Keys of the leader's server. A card holds only their digest; that they differ is told, and is no problem.
SECRETS = frozenset(option.name for option in OPTIONS if option.secret)

MAY_DIFFER = _named(_OF_THE_NODE + _LOGS + _HTTP) | SECRETS


def comparable_arguments(argv: Sequence[str], digest: Callable[[str], str]) -> dict[str, str]:
    """Return the arguments that a card holds, by SGLang's spelling; secrets as ``digest`` makes them."""
    return {
        name: digest(value) if redacted((name, value))[-1] != value else value
        for name, value in read_options(argv).items()
        if name in SECRETS or name not in MAY_DIFFER
    }
