#!/bin/sh
# Makes an OCI image of busybox: image.sh FILE.tar. Its name is localhost/pod:latest. (image-spec 1.0, image-layout.md)
set -eu
out=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/rootfs/bin" "$dir/rootfs/tmp" "$dir/image/blobs/sha256"
cp /bin/busybox "$dir/rootfs/bin/"
for name in sh ping ip sleep cat; do ln -s busybox "$dir/rootfs/bin/$name"; done
layer=$dir/layer.tar
tar -C "$dir/rootfs" --owner=0 --group=0 --mtime=@0 -cf "$layer" .
digest() { sha256sum "$1" | cut -d' ' -f1; }
size() { stat -c %s "$1"; }
diff=$(digest "$layer")
blob() { cp "$1" "$dir/image/blobs/sha256/$(digest "$1")"; }
blob "$layer"
printf '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sleep","60"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
	"$diff" >"$dir/config"
blob "$dir/config"
oci=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"%s.layer.v1.tar","digest":"sha256:%s","size":%s}]}' \
	$oci $oci "$(digest "$dir/config")" "$(size "$dir/config")" $oci "$diff" "$(size "$layer")" >"$dir/manifest"
blob "$dir/manifest"
printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"io.containerd.image.name":"localhost/pod:latest","org.opencontainers.image.ref.name":"localhost/pod:latest"}}]}' \
	$oci "$(digest "$dir/manifest")" "$(size "$dir/manifest")" >"$dir/image/index.json"
echo '{"imageLayoutVersion":"1.0.0"}' >"$dir/image/oci-layout"
tar -C "$dir/image" -cf "$out" .
