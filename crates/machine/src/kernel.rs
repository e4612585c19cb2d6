//! Machines that run a queue of kernels: GPUs.

use crate::parameter::TileShape;
use crate::view::view;

view! {
    /// A machine of many streaming multiprocessors (SMs) behind one launch queue.
    pub struct KernelMachine {
        /// Clock of the SMs.
        clock_hz: f64 = "Hz",
        /// Streaming multiprocessors.
        sms: u64 = "count",
        /// Sub-partitions of an SM, each issuing one warp instruction per cycle.
        partitions_per_sm: u64 = "count",
        /// Threads of a warp.
        warp_threads: u64 = "count",
        /// Warps resident on an SM at most.
        warps_per_sm: u64 = "count",
        /// Blocks resident on an SM at most.
        blocks_per_sm: u64 = "count",
        /// fp32 fused multiply-adds per SM outside the matrix unit.
        vector_fp32: f64 = "MAC/cycle",
        /// fp16 fused multiply-adds per SM outside the matrix unit.
        vector_fp16: f64 = "MAC/cycle",
        /// bf16 fused multiply-adds per SM outside the matrix unit.
        vector_bf16: f64 = "MAC/cycle",
        /// Exponentials, reciprocals and other special functions per SM.
        special_functions: f64 = "element/cycle",
        /// Register file of an SM.
        register_bytes: u64 = "B",
        /// L1 cache and shared memory of an SM together.
        l1_bytes: u64 = "B",
        /// Shared memory that blocks of an SM can have at most.
        shared_bytes: u64 = "B",
        /// Shared memory and L1 bandwidth of an SM.
        shared_bytes_per_cycle: f64 = "B/cycle",
        /// Latency of L1.
        l1_latency_cycles: f64 = "cycle",
        /// L2 cache of the chip.
        l2_bytes: u64 = "B",
        /// Attained L2 bandwidth of the chip.
        l2_bandwidth: f64 = "B/s",
        /// Latency of L2.
        l2_latency_cycles: f64 = "cycle",
        /// Device memory.
        hbm_bytes: u64 = "B",
        /// Device memory that context, allocator and libraries keep for themselves.
        hbm_reserved_bytes: u64 = "B",
        /// Peak bandwidth of device memory.
        hbm_bandwidth: f64 = "B/s",
        /// Part of the peak bandwidth that long streams attain.
        hbm_fraction: f64 = "ratio",
        /// Latency of device memory.
        hbm_latency_cycles: f64 = "cycle",
        /// Time from one kernel to the next of a full queue.
        launch_seconds: f64 = "s",
        /// The same within a captured graph of kernels.
        graph_launch_seconds: f64 = "s",
        /// Bandwidth to the host, each direction.
        host_bandwidth: f64 = "B/s",
        /// Time until the first byte of a copy from or to the host arrives.
        host_latency_seconds: f64 = "s",
        /// Floor of an all-reduce of a few bytes over the links of one machine.
        allreduce_floor_seconds: Option<f64> = "s",
        /// Output tiles that the matrix kernels of the libraries come in.
        matrix_tiles: Vec<TileShape> = "count",
        /// Cycles that a block spends to fill its pipeline and to write its result, beyond its matrix work.
        block_overhead_cycles: f64 = "cycle",
        /// Cycles from the launch of a kernel of matrix work to its first product and from its last result to its end; a launch where there is none.
        kernel_start_cycles: Option<f64> = "cycle",
        /// Rows of a tile that one instruction stream multiplies with what it reads once from shared memory; 64.
        instruction_rows: Option<f64> = "count",
        /// Columns of a tile that one instruction stream multiplies with what it reads once from shared memory; 64.
        instruction_columns: Option<f64> = "count",
        /// Blocks that share what one of them reads from L2; 1.
        tile_multicast: Option<f64> = "count",
        /// Part of `l2_bandwidth` that the tiles of a product attain; all of it.
        l2_fraction: Option<f64> = "ratio",
        /// Part of the attainable memory bandwidth (peak x `hbm_fraction`) that matrix kernels attain for operands that nothing has touched since long; the loss `memory_fraction` where there is none.
        operand_fraction: Option<f64> = "ratio",
        /// Bytes that a block of attention with few queries keeps under way; a quarter of the shared memory.
        load_bytes_in_flight: Option<f64> = "B",
        /// Part of the softmax of attention that is done beside matrix work; none.
        softmax_overlap: Option<f64> = "ratio",
    }
}

view! {
    /// What software loses on a kernel machine that the mechanism cannot know.
    pub struct KernelLosses {
        /// Part of the matrix unit's peak that full tiles in full waves attain.
        matrix_fraction: f64 = "ratio",
        /// Part of the vector units' peak that element-wise arithmetic attains.
        vector_fraction: f64 = "ratio",
        /// Part of the attainable memory bandwidth (peak x `hbm_fraction`) that kernels of this software attain.
        memory_fraction: f64 = "ratio",
        /// Kernels that this software runs for one attention; beyond the first they keep the pages of a cache. 1.
        attention_kernels: Option<f64> = "count",
        /// Part of the rate of the best fused attention on the machine that this software's kernels attain; 1.
        attention_fraction: Option<f64> = "ratio",
        /// How often the scores of attention go to or come from memory, where this software has no kernel that keeps them; never.
        score_trips: Option<f64> = "count",
        /// Kernels that this software makes a GELU of, each of which reads and writes what it is of; 1.
        gelu_kernels: Option<f64> = "count",
        /// How often the input and the result of a convolution are brought from one layout to another by kernels of their own; never.
        convolution_relayouts: Option<f64> = "count",
        /// Host time of one call of a softmax and the wait for its result, where calls are measured one at a time; the kernel's time comes on top.
        softmax_call_seconds: Option<f64> = "s",
        /// The same of a layer normalization or a GELU.
        composite_call_seconds: Option<f64> = "s",
        /// Host time to put one kernel into the queue; hidden while the queue is full.
        host_seconds_per_kernel: f64 = "s",
        /// Host time of one run of the whole model that nothing hides.
        host_seconds_per_run: f64 = "s",
    }
}
