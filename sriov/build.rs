//! The kubelet's interfaces from their .proto files, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["deviceplugin_v1beta1.proto", "podresources_v1.proto"];
    let compiled = protox::compile(files, ["proto"])?;
    // Both sides of each: the kubelet's are what tests stand in with.
    tonic_prost_build::configure().compile_fds(compiled)?;
    Ok(())
}
