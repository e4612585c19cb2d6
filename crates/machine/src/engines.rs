//! Machines that run a graph of kernels on two engines side by side: Gaudi.

use crate::parameter::TileShape;
use crate::view::view;

view! {
    /// A chip with an engine for matrix work and one of vector cores, which pass slices of values to each other.
    pub struct EnginesMachine {
        /// Clock of the vector cores (TPCs).
        clock_hz: f64 = "Hz",
        /// Clock of the matrix engines (MMEs).
        matrix_clock_hz: f64 = "Hz",
        /// Matrix engines.
        matrix_engines: u64 = "count",
        /// Blocks of outputs `[rows, columns, 1]` that arrays of the matrix engines hold: an engine's own, or of several
        /// engines joined. The number of MACs of all engines over that of a block is how many blocks are made at once.
        matrix_arrays: Vec<TileShape> = "count",
        /// Vector cores.
        vector_cores: u64 = "count",
        /// fp32 elements that a vector core takes.
        vector_fp32: f64 = "element/cycle",
        /// 16 bit elements that a vector core takes.
        vector_16_bit: f64 = "element/cycle",
        /// Exponentials, reciprocals and other special functions of a vector core.
        special_functions: f64 = "element/cycle",
        /// Bytes that a vector core reads and writes outside of its own memory.
        core_bytes_per_cycle: f64 = "B/cycle",
        /// Memory on the chip, through which the engines pass slices.
        sram_bytes: u64 = "B",
        /// Slices that a value is passed in from engine to engine within a node of the graph.
        slices: u64 = "count",
        /// Device memory.
        hbm_bytes: u64 = "B",
        /// Device memory that driver, graphs and allocator keep for themselves.
        hbm_reserved_bytes: u64 = "B",
        /// Peak bandwidth of device memory.
        hbm_bandwidth: f64 = "B/s",
        /// Part of the peak bandwidth that long streams attain.
        hbm_fraction: f64 = "ratio",
        /// Time from one node of a recorded graph to the next that needs it: semaphores and descriptors.
        node_seconds: f64 = "s",
        /// Bandwidth to the host, each direction.
        host_bandwidth: f64 = "B/s",
        /// Time until the first byte of a copy from or to the host arrives.
        host_latency_seconds: f64 = "s",
    }
}

view! {
    /// What software loses on a machine of two engines that the mechanism cannot know.
    pub struct EnginesLosses {
        /// Part of the matrix engines' rate that full blocks attain.
        matrix_fraction: f64 = "ratio",
        /// Part of the vector cores' rate that kernels attain.
        vector_fraction: f64 = "ratio",
        /// Part of the attainable memory bandwidth (peak x `hbm_fraction`) that kernels of this software attain.
        memory_fraction: f64 = "ratio",
        /// 1 where graphs are recorded for one shape, so that a cache of keys and values has its final length from the first token on; 0.
        whole_cache: Option<f64> = "count",
        /// Host time to issue one node where the graph is not recorded; hidden while the queue is full.
        host_seconds_per_node: f64 = "s",
        /// Host time of one run of the whole model that nothing hides.
        host_seconds_per_run: f64 = "s",
    }
}
