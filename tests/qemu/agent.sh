# A guest that does what it is told: the test puts scripts into /host/agent, one after the other, and finds there what
# they printed and how they ended.
mkdir -p /host/agent
echo 0 >/host/agent/0.code
for ((n = 1; ; n++)); do
	until [ -e /host/agent/$n.sh ]; do sleep 0.02; done
	bash /host/agent/$n.sh >/host/agent/$n.out 2>&1 </dev/null
	echo $? >/host/agent/$n.part
	mv /host/agent/$n.part /host/agent/$n.code
done
