//! What a simulated pod can do: scheduler limits, cache size and speed.

/// The limits and the speed of one pod. [`EngineConfig::default`] is [`Profile::A10`].
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Tokens of one KV block. 16 is vLLM's default on GPUs.
    pub block_size: u32,
    /// KV blocks of the pod, as `vllm:cache_config_info` says it. One of them is never used: vLLM keeps block
    /// 0 as padding.
    pub num_gpu_blocks: u32,
    /// KV blocks in host memory, to which every computed block is written through. 0 is no offloading, vLLM's
    /// default.
    pub host_blocks: u32,
    /// Requests that run at the same time, at most.
    pub max_num_seqs: u32,
    /// Tokens of one step, prefill and decode together, at most. Larger means less time to first token for
    /// long prompts and longer pauses for those that decode.
    pub max_num_batched_tokens: u32,
    /// Seconds every step costs, whatever is in it: reading the weights, launching kernels, sampling.
    pub step_seconds: f64,
    /// Tokens per second that come back from host memory.
    pub host_tokens_per_second: f64,
    /// Prompt tokens computed per second, on top of the step's own cost.
    pub prefill_tokens_per_second: f64,
    /// Seconds a decoding request adds to a step.
    pub decode_seconds_per_seq: f64,
    /// Seconds each token of context adds to a step in which its request decodes: the KV cache is read once.
    pub decode_seconds_per_context_token: f64,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        Profile::A10.config()
    }
}

impl EngineConfig {
    /// Tokens the KV cache can hold.
    pub fn capacity_tokens(&self) -> u32 {
        self.usable_blocks().saturating_mul(self.block_size)
    }

    /// Blocks that requests can use: all but the padding block.
    pub fn usable_blocks(&self) -> u32 {
        self.num_gpu_blocks.saturating_sub(1)
    }
}

/// What the pods of a fleet are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Hardware {
    /// A10s.
    A10,
    /// H100s.
    H100,
    /// Every other pod an H100.
    Mixed,
}

impl Hardware {
    /// The engines of a fleet of `count` pods.
    pub fn pods(self, count: usize) -> Vec<EngineConfig> {
        let profile = |number: usize| match self {
            Hardware::A10 => Profile::A10,
            Hardware::H100 => Profile::H100,
            Hardware::Mixed if number.is_multiple_of(2) => Profile::A10,
            Hardware::Mixed => Profile::H100,
        };
        (0..count).map(|number| profile(number).config()).collect()
    }
}

/// A GPU and a model that people run on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// One A10 (24 GB) with a 7B model in 16 bits.
    A10,
    /// One H100 (80 GB) with an 8B model in 16 bits.
    H100,
}

impl Profile {
    /// The profile's figures. They come from data sheets (memory bandwidth, dense tensor throughput) and the
    /// usual efficiencies, not from a measurement of ours: good for comparing routers, not for sizing a
    /// cluster.
    pub fn config(self) -> EngineConfig {
        match self {
            // 7.2e9 weights of 2 bytes at 600 GB/s are 24 ms, plus launches and sampling: 28 ms a step. 125
            // TFLOP/s at 60 to 65 % over 2 * 7.2e9 FLOP a token are 5,500 tokens/s. 24 GB * 0.9 less weights
            // and activations leave 4.3 GB; at 131 KB a token (32 layers, 8 KV heads of 128) that is 32,768
            // tokens. Reading 131 KB at 600 GB/s takes 0.2 us.
            Profile::A10 => EngineConfig {
                block_size: 16,
                num_gpu_blocks: 2048,
                host_blocks: 0,
                max_num_seqs: 256,
                max_num_batched_tokens: 2048,
                step_seconds: 0.028,
                // 20 GB/s over PCIe 4 at 131 KB a token.
                host_tokens_per_second: 150_000.0,
                prefill_tokens_per_second: 5_500.0,
                decode_seconds_per_seq: 0.000_2,
                decode_seconds_per_context_token: 0.2e-6,
            },
            // 8e9 weights of 2 bytes at 3.35 TB/s are 4.8 ms, plus 2 ms. 989 TFLOP/s at 45 % over 16 GFLOP a
            // token are 28,000 tokens/s; long prompts get less, hence 25,000. 80 GB * 0.9 less 22 GB leave 50
            // GB: 384,000 tokens of 131 KB. vLLM's own defaults on an H100 are 8,192 tokens a step and 1,024
            // requests.
            Profile::H100 => EngineConfig {
                block_size: 16,
                num_gpu_blocks: 24_000,
                host_blocks: 0,
                max_num_seqs: 1024,
                max_num_batched_tokens: 8192,
                step_seconds: 0.006_8,
                // 45 GB/s over PCIe 5 at 131 KB a token.
                host_tokens_per_second: 340_000.0,
                prefill_tokens_per_second: 25_000.0,
                decode_seconds_per_seq: 0.000_03,
                decode_seconds_per_context_token: 0.04e-6,
            },
        }
    }
}
