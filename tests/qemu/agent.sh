# A guest that does what it is told: the test puts scripts into /host/agent, one after the other, and finds there what
# they printed and how they ended. N.leave in place of a script has it leave the folder, without which a machine cannot
# migrate; it comes back, maybe to another host's folder, when a line arrives on the second serial port.
if [ "$0" != /tmp/agent.sh ]; then
	cp /host/agent.sh /tmp/
	cd /
	exec bash /tmp/agent.sh
fi
mkdir -p /host/agent
echo 0 >/host/agent/0.code
for ((n = 1; ; n++)); do
	until [ -e /host/agent/$n.sh ] || [ -e /host/agent/$n.leave ]; do sleep 0.02; done
	if [ -e /host/agent/$n.leave ]; then
		umount /host
		read -r </dev/ttyS1
		mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 host /host &&
			mkdir -p /host/agent && echo 0 >/host/agent/$n.code
		continue
	fi
	bash /host/agent/$n.sh >/host/agent/$n.out 2>&1 </dev/null
	echo $? >/host/agent/$n.part
	mv /host/agent/$n.part /host/agent/$n.code
done
