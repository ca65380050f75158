//! The kubelet's interfaces, generated from `proto/`. The field names are the interface's.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]

/// Device plugins, v1beta1: `Register` at the kubelet, everything else at the plugin.
pub mod v1beta1 {
    tonic::include_proto!("v1beta1");

    /// `RegisterRequest::version`.
    pub const VERSION: &str = "v1beta1";
    /// `Device::health`: pods may be given it.
    pub const HEALTHY: &str = "Healthy";
    /// `Device::health`: pods that have it keep it, no other gets it.
    pub const UNHEALTHY: &str = "Unhealthy";
    /// The kubelet's socket in its device-plugins folder.
    pub const KUBELET_SOCKET: &str = "kubelet.sock";
}

/// podresources, v1.
pub mod podresources {
    tonic::include_proto!("v1");
}
