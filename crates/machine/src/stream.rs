//! Machines that run one static schedule of streams through their functional units: GroqChip.

use crate::view::view;

view! {
    /// A chip of memory slices, matrix planes, vector and shape units along streams that move one hop a cycle.
    pub struct StreamMachine {
        /// Clock of the chip.
        clock_hz: f64 = "Hz",
        /// Superlanes: an instruction reaches one after the other.
        superlanes: u64 = "count",
        /// Lanes of a superlane; a vector has an element for each lane of the chip.
        lanes_per_superlane: u64 = "count",
        /// Cycles until an instruction has reached the last superlane.
        superlane_stagger_cycles: f64 = "cycle",
        /// Planes of the matrix unit. An element of several bytes takes as many planes side by side.
        matrix_planes: u64 = "count",
        /// Inputs along the sum that a plane takes.
        plane_inputs: u64 = "count",
        /// Outputs that a plane makes.
        plane_outputs: u64 = "count",
        /// Weight bytes that all planes together install.
        install_bytes_per_cycle: f64 = "B/cycle",
        /// Cycles from the inputs of a sum to its result.
        matrix_latency_cycles: f64 = "cycle",
        /// Elements that the vector unit's ALUs take, one operation each.
        vector_alus: f64 = "element/cycle",
        /// Cycles from an operand to the result of one vector operation.
        vector_latency_cycles: f64 = "cycle",
        /// Exponentials, reciprocals and other special functions of the chip.
        special_functions: f64 = "element/cycle",
        /// Bytes that the shape units transpose.
        transpose_bytes_per_cycle: f64 = "B/cycle",
        /// Bytes that the shape units shift over lanes and put together into vectors.
        shift_bytes_per_cycle: f64 = "B/cycle",
        /// Cycles from the first vector into a shape unit to the first out of it.
        shape_latency_cycles: f64 = "cycle",
        /// Memory slices, half of them on either side of the vector unit.
        memory_slices: u64 = "count",
        /// Memory of the chip: weights, values and instructions together. There is no other.
        sram_bytes: u64 = "B",
        /// Bytes of it that the instructions of a program take.
        program_bytes: u64 = "B",
        /// Bytes that the memory slices read and write, bank conflicts scheduled away.
        memory_bytes_per_cycle: f64 = "B/cycle",
        /// Cycles of one read or write in a slice.
        memory_latency_cycles: f64 = "cycle",
        /// Bytes on all streams of the chip.
        stream_bytes_per_cycle: f64 = "B/cycle",
        /// Bandwidth from one chip to another over all paths that the schedule uses, each direction.
        chip_bandwidth: f64 = "B/s",
        /// Bandwidth between host and chip.
        host_bandwidth: f64 = "B/s",
        /// Time until the first byte of a transfer from or to the host arrives.
        host_latency_seconds: f64 = "s",
        /// Chips in sequence that one model can be spread over.
        sequence_chips: u64 = "count",
    }
}

view! {
    /// What software loses on a stream machine that the mechanism cannot know.
    pub struct StreamLosses {
        /// Part of the matrix unit's rate that schedules attain while vectors stream.
        matrix_fraction: f64 = "ratio",
        /// Part of the vector unit's rate that schedules attain.
        vector_fraction: f64 = "ratio",
        /// Part of the streams' rate that schedules attain.
        stream_fraction: f64 = "ratio",
        /// The shortest way of a vector through the chip, in cycles, over the way that schedules take.
        transit_fraction: f64 = "ratio",
        /// Host time of one run of the whole model that nothing hides.
        host_seconds_per_run: f64 = "s",
    }
}
