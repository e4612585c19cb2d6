//! What reports call things, in the words of each execution model.

use crate::Resource;
use orrery_machine::ExecutionModel as On;

impl Resource {
    /// Its name in reports on machines that execute so.
    pub const fn name(self, on: &On) -> &'static str {
        match (on, self) {
            (On::Kernel(_), Self::Local) => "shared memory",

            (On::BulkSynchronous(_), Self::Matrix) => "matrix unit (AMP)",
            (On::BulkSynchronous(_), Self::Local) => "tile memory",
            (On::BulkSynchronous(_), Self::Launch) => "vertex start",

            (On::Spatial(_), Self::Matrix) => "PCUs: products",
            (On::Spatial(_), Self::Vector) => "PCUs: element-wise",
            (On::Spatial(_), Self::Special) => "PCUs: special functions",
            (On::Spatial(_), Self::Local) => "PMUs",

            (On::Stream(_), Self::Matrix) => "matrix unit (MXM)",
            (On::Stream(_), Self::Vector) => "vector unit (VXM)",
            (On::Stream(_), Self::Special) => "special functions (VXM)",

            (On::Engines(_), Self::Matrix) => "matrix engine (MME)",
            (On::Engines(_), Self::Vector) => "vector cores (TPC)",
            (On::Engines(_), Self::Local) => "loads and stores (TPC)",
            (On::Engines(_), Self::Launch) => "node start",

            (On::Wafer(_), Self::Matrix) => "PEs: products",
            (On::Wafer(_), Self::Vector) => "PEs: element-wise",
            (On::Wafer(_), Self::Special) => "PEs: special functions",
            (On::Wafer(_), Self::Local) => "PE memory",
            (On::Wafer(_), Self::Launch) => "task dispatch",

            (_, Self::Matrix) => "matrix unit",
            (_, Self::Vector) => "vector unit",
            (_, Self::Special) => "special functions",
            (_, Self::Local) => "core memory",
            (_, Self::L2) => "L2 cache",
            (_, Self::DeviceMemory) => "device memory",
            (_, Self::Launch) => "launch",
            (_, Self::Exchange) => "exchange",
            (_, Self::Sync) => "sync",
            (_, Self::Streaming) => "streaming memory",
            (_, Self::HostLink) => "host link",
            (_, Self::Interval) => "slowest stage",
            (_, Self::Fill) => "fill and drain",
            (_, Self::ProgramLoad) => "program load",
            (_, Self::ArgumentLoad) => "argument load",
            (_, Self::Ddr) => "DDR",
            (_, Self::Hbm) => "HBM",
            (_, Self::Install) => "weight install (MXM)",
            (_, Self::Shape) => "shape unit (SXM)",
            (_, Self::Stream) => "streams",
            (_, Self::Transit) => "stream transit",
            (_, Self::ChipLink) => "chip links",
            (_, Self::Ingress) => "weight ingress",
            (_, Self::Egress) => "gradient egress",
            (_, Self::Ramp) => "ramp",
            (_, Self::Mesh) => "mesh",
        }
    }
}

/// What a step is called that only moves data among the cores; none where it is a step like any other: a kernel or a node.
pub const fn movement(on: &On) -> Option<&'static str> {
    match on {
        On::Kernel(_) | On::Engines(_) => None,
        On::BulkSynchronous(_) | On::Wafer(_) => Some("exchange"),
        On::Spatial(_) | On::Stream(_) => Some("movement"),
    }
}
