//! Machines of one wafer: a mesh of small cores (processing elements, PEs) that wavelets set going: Cerebras.

use crate::view::view;

view! {
    /// A mesh of PEs on one wafer, with a store for weights beside it.
    pub struct WaferMachine {
        /// Clock of the PEs and of the mesh.
        clock_hz: f64 = "Hz",
        /// PEs of a wafer that work.
        pes: u64 = "count",
        /// PEs along a row of the largest rectangle that one program can have.
        grid_columns: u64 = "count",
        /// PEs along a column of that rectangle.
        grid_rows: u64 = "count",
        /// fp16 elements that a PE adds or multiplies.
        vector_fp16: f64 = "element/cycle",
        /// fp32 elements that a PE adds or multiplies.
        vector_fp32: f64 = "element/cycle",
        /// Exponentials, reciprocals and other special functions of a PE.
        special_functions: f64 = "element/cycle",
        /// Cycles to set one vector operation going, beside its elements.
        vector_start_cycles: f64 = "cycle",
        /// Memory of a PE: code and data together.
        sram_bytes: u64 = "B",
        /// Bytes a PE reads from its memory.
        sram_read_bytes_per_cycle: f64 = "B/cycle",
        /// Bytes a PE writes to its memory.
        sram_write_bytes_per_cycle: f64 = "B/cycle",
        /// Cache of a PE that its software fills: sums that fit are not written to memory until they are whole.
        cache_bytes: u64 = "B",
        /// Memory of a PE that code, stacks and queues of the program take.
        pe_reserved_bytes: u64 = "B",
        /// Bytes that a link of the mesh carries, each direction; the ramp between a router and its PE carries the same.
        link_bytes_per_cycle: f64 = "B/cycle",
        /// Cycles from one router to the next.
        hop_cycles: f64 = "cycle",
        /// Cycles between a router and its PE.
        ramp_cycles: f64 = "cycle",
        /// Colours: routes that a router keeps apart.
        colours: u64 = "count",
        /// Colours that the link to the host keeps for itself.
        host_colours: u64 = "count",
        /// Cycles until a wavelet that arrives has set its task going.
        task_dispatch_cycles: f64 = "cycle",
        /// Fixed cycles of a PE to exchange with its neighbours once: its sends, its receives and their tasks.
        exchange_start_cycles: f64 = "cycle",
        /// Bandwidth into the wafer, and out of it at the same time.
        ingress_bandwidth: f64 = "B/s",
        /// Memory beside the wafer that holds weights and optimizer state (MemoryX).
        memoryx_bytes: u64 = "B",
        /// Time until the first byte of a transfer from the host arrives.
        host_latency_seconds: f64 = "s",
    }
}

view! {
    /// What software loses on a wafer that the mechanism cannot know.
    pub struct WaferLosses {
        /// Part of the MAC rate that inner loops attain once they run.
        matrix_fraction: f64 = "ratio",
        /// Part of the vector rate that element-wise loops attain.
        vector_fraction: f64 = "ratio",
        /// Part of the rate of ramps and links that exchanges and reductions attain.
        mesh_fraction: f64 = "ratio",
        /// Part of the bandwidth into the wafer that the stream of weights attains.
        ingress_fraction: f64 = "ratio",
        /// From asking for weights that stream in until they begin to arrive: hidden where they were asked for in time.
        layer_seconds: f64 = "s",
        /// Host time of one run of the whole model that nothing hides.
        host_seconds_per_run: f64 = "s",
    }
}
