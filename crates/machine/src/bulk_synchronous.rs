//! Machines of many tiles that compute, synchronise and exchange in turn: IPUs.

use crate::view::view;

view! {
    /// A machine of many tiles with local memory, stepping in bulk-synchronous supersteps.
    pub struct BspMachine {
        /// Clock of the tiles.
        clock_hz: f64 = "Hz",
        /// Tiles of one chip.
        tiles: u64 = "count",
        /// Worker threads of a tile, issued in turn.
        workers: u64 = "count",
        /// Cycles between two instructions of one worker.
        worker_issue_cycles: u64 = "cycle",
        /// fp16 elements that the vector datapath of a tile takes.
        vector_fp16: f64 = "element/cycle",
        /// fp32 elements that the vector datapath of a tile takes.
        vector_fp32: f64 = "element/cycle",
        /// Exponentials, reciprocals and other special functions of a tile.
        special_functions: f64 = "element/cycle",
        /// Memory of a tile: code, data, exchange code and vertex state together.
        tile_bytes: u64 = "B",
        /// The part of a tile's memory that instructions can be fetched from.
        tile_code_region_bytes: u64 = "B",
        /// Size of a memory element; accesses that meet in one wait for each other.
        memory_element_bytes: u64 = "B",
        /// Bytes a tile reads from its memory, interleaved.
        tile_read_bytes_per_cycle: f64 = "B/cycle",
        /// Bytes a tile writes to its memory.
        tile_write_bytes_per_cycle: f64 = "B/cycle",
        /// Bytes copied within a tile.
        copy_bytes_per_cycle: f64 = "B/cycle",
        /// Fixed cycles of one copy within a tile.
        copy_call_cycles: f64 = "cycle",
        /// Result bytes of a reduction within a tile.
        reduce_bytes_per_cycle: f64 = "B/cycle",
        /// Inputs along the sum that one block of the matrix unit takes, fp16.
        matrix_block_inputs_fp16: u64 = "count",
        /// Inputs along the sum that one block of the matrix unit takes, fp32.
        matrix_block_inputs_fp32: u64 = "count",
        /// Output channels that one block of the matrix unit makes.
        matrix_block_outputs: u64 = "count",
        /// Cycles of a tile to load the weights of one block and set it going, fp16 weights in interleaved memory.
        matrix_block_cycles_fp16: f64 = "cycle",
        /// Cycles of a tile to load the weights of one block and set it going, fp32.
        matrix_block_cycles_fp32: f64 = "cycle",
        /// Fixed cycles of one matrix product on a tile.
        matrix_call_cycles: f64 = "cycle",
        /// Cycles of a tile to start one vertex from its supervisor.
        vertex_launch_cycles: f64 = "cycle",
        /// Cycles of one worker to begin an element-wise vertex; times `workers` on the tile.
        worker_launch_cycles: f64 = "cycle",
        /// Instructions of a worker per 64 bit vector in an element-wise loop.
        vector_loop_cycles: f64 = "cycle",
        /// Bytes a tile sends, and at the same time receives.
        exchange_bytes_per_cycle: f64 = "B/cycle",
        /// Neighbouring tiles that receive at double rate where both receive the same data.
        exchange_tiles_per_bus: u64 = "count",
        /// Cycles from tile to tile.
        exchange_latency_cycles: f64 = "cycle",
        /// Cycles from the last arrival to the end of an exchange phase.
        exchange_tail_cycles: f64 = "cycle",
        /// Cycles per separate fragment where the data of an exchange are scattered.
        exchange_fragment_cycles: f64 = "cycle",
        /// Longest single transfer of an exchange.
        exchange_max_transfer_bytes: u64 = "B",
        /// Cycles of a synchronisation of all tiles of a chip.
        sync_cycles: f64 = "cycle",
        /// Cycles of a synchronisation over several chips.
        sync_global_cycles: f64 = "cycle",
        /// Bandwidth that one process sees between host and chip.
        host_bandwidth: f64 = "B/s",
        /// Shortest time of a transfer between host and tile.
        host_latency_seconds: f64 = "s",
        /// Memory beside the chips of one machine, shared by them.
        streaming_bytes: u64 = "B",
        /// Bandwidth of the streaming memory of one machine, shared by its chips.
        streaming_bandwidth: f64 = "B/s",
        /// Bytes of the program of one kind of vertex on a tile, counted once for each kind used there.
        vertex_code_bytes: u64 = "B",
        /// Bytes of one vertex on a tile beside its data: its pointers and sizes.
        vertex_state_bytes: u64 = "B",
        /// Bytes of exchange code of a tile for one exchange phase it takes part in.
        exchange_phase_bytes: u64 = "B",
        /// Bytes of exchange code of a tile for each contiguous piece it sends or receives.
        exchange_piece_bytes: u64 = "B",
        /// Bytes of control code of a tile for one step of the program.
        control_step_bytes: u64 = "B",
        /// Bytes of a tile for stacks, boot code and host communication, whatever the program.
        tile_reserved_bytes: u64 = "B",
        /// Part of a tile's memory that one matrix product or convolution may use for temporary data.
        matrix_temporary_fraction: f64 = "ratio",
    }
}

view! {
    /// What software loses on a bulk-synchronous machine that the mechanism cannot know.
    pub struct BspLosses {
        /// Part of the matrix unit's rate that inner loops attain once a block is loaded.
        matrix_fraction: f64 = "ratio",
        /// Part of the vector rate that element-wise loops attain.
        vector_fraction: f64 = "ratio",
        /// Part of the exchange rate that phases attain.
        exchange_fraction: f64 = "ratio",
        /// Host time of one run of the whole model that nothing hides.
        host_seconds_per_run: f64 = "s",
    }
}
