# SPDX-License-Identifier: Apache-2.0
"""A real Kubernetes of two nodes on one machine: each has network, mount and process namespaces of its own, so that nothing of it
outlives its first process and the machine's own network, mounts and settings are not touched. Only cgroups are left, and swept.

The control plane is a third such machine, the nodes' default route and so the world outside. Nodes have a bridge CNI,
kube-proxy and a bpffs. build.sh makes the programs and images.
"""
import concurrent.futures
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

CACHE = pathlib.Path(os.environ.get("PENSTOCK_KUBE_CACHE", "/var/cache/penstock-kube"))
BIN = CACHE / "bin"
CONTROL, SERVICES, PODS = "10.88.0.1", "10.89.0.0/24", "10.88.128.0/17"
OUTSIDE = "198.51.100.7"  # a host that the nodes reach by the control plane's machine
CGROUP = "penstock-kube-"
USERS = {"admin": ("admin", "system:masters"), "manager": ("system:kube-controller-manager", ""),
         "scheduler": ("system:kube-scheduler", ""), "proxy": ("system:kube-proxy", ""),
         "n1": ("system:node:n1", "system:nodes"), "n2": ("system:node:n2", "system:nodes")}
# What the kubelet sets if it is otherwise, for the whole machine: it finds it so.
KUBELET_SETTINGS = {"vm/overcommit_memory": 1, "vm/panic_on_oom": 0, "kernel/panic": 10, "kernel/panic_on_oops": 1,
                    "kernel/keys/root_maxkeys": 1000000, "kernel/keys/root_maxbytes": 25000000}


class Failed(AssertionError):
    pass


def run(*command, check=True, timeout=60, **more):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout, check=False, **more)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done


def wait(until, what, seconds=60, every=0.25, explain=None):
    """What until() returns once that is true; a Failed in it is not yet true."""
    end, last = time.monotonic() + seconds, ""
    while True:
        try:
            got = until()
            if got:
                return got
        except Failed as failure:
            last = f": {failure}"
        if time.monotonic() > end:
            raise Failed(f"waited {seconds} s for {what}{last}\n{explain() if explain else ''}")
        time.sleep(every)


class Machine:
    """Namespaces, and what runs in them: all of it ends with the first process."""

    def __init__(self, name, directory):
        self.name, self.directory = name, directory / name
        self.directory.mkdir()
        self.running = []
        settings = []
        for path, value in KUBELET_SETTINGS.items():
            (self.directory / path.replace("/", "-")).write_text(f"{value}\n")
            settings.append(f"mount --bind {self.directory}/{path.replace('/', '-')} /proc/sys/{path}")
        script = "\n".join(["set -e", "mount --make-rshared /", "for each in /run /var/log /var/lib; do mount -t tmpfs tmpfs $each; done",
                            "mkdir -p /run/lock /var/log/pods /var/log/containers", "mount -t bpf -o mode=0700 bpf /sys/fs/bpf", *settings,
                            "ip link set lo up", "sysctl -qw net.ipv4.ip_forward=1", f"touch {self.directory}/up",
                            "exec catatonit -- sleep infinity"])
        self.holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
             "--mount-proc", "sh", "-c", script], start_new_session=True, stdout=(self.directory / "machine.log").open("w"),
            stderr=subprocess.STDOUT)
        try:
            wait((self.directory / "up").exists, f"the namespaces of {name}", 10, explain=(self.directory / "machine.log").read_text)
        except BaseException:
            self.holder.kill()
            raise
        self.pid = int(pathlib.Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()[0])

    def command(self, *command):
        return ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", "--", *map(str, command)]

    def run(self, *command, **more):
        return run(*self.command(*command), **more)

    def start(self, name, *command):
        """A daemon; its log is NAME.log."""
        log = (self.directory / f"{name}.log").open("w")
        process = subprocess.Popen(self.command(*command), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   start_new_session=True, cwd=self.directory)
        self.running.append((name, process))
        return process

    def alive(self):
        for name, process in self.running:
            if process.poll() is not None:
                raise AssertionError(f"{self.name}: {name} has ended with {process.returncode}\n{self.tail(name)}")

    def tail(self, name, lines=15):
        return "\n".join((self.directory / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # the kernel ends everything else in it before
        for process in [self.holder, *(process for _, process in self.running)]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)


class Node(Machine):
    def __init__(self, number, directory):
        super().__init__(f"n{number}", directory)
        self.number, self.address, self.pods = number, f"10.88.0.1{number}", f"10.88.{128 + number}.0/24"
        self.socket = self.directory / "containerd.sock"

    def prepare(self, control):
        # In the machine's process namespace, where our number means us.
        run("nsenter", f"--net=/proc/{control.pid}/ns/net", "ip", "link", "add", f"b{self.number}", "type", "veth",
            "peer", "name", "eth0", "netns", self.pid)
        control.run("ip", "link", "set", f"b{self.number}", "master", "br0", "up")
        control.run("ip", "route", "add", self.pods, "via", self.address)
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", CONTROL)
        other = 3 - self.number
        self.run("ip", "route", "add", f"10.88.{128 + other}.0/24", "via", f"10.88.0.1{other}")
        for hierarchy in hierarchies():
            made = hierarchy / f"{CGROUP}{self.number}"
            made.mkdir(exist_ok=True)
            if hierarchy.name == "cpuset":
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (made / name).write_text((hierarchy / name).read_text())
        self.write("cni/10-bridge.conflist", json.dumps({"cniVersion": "0.4.0", "name": "bridge", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": True,
             "ipam": {"type": "host-local", "ranges": [[{"subnet": self.pods}]], "routes": [{"dst": "0.0.0.0/0"}],
                      "dataDir": f"{self.directory}/ipam"}}]}))
        self.write("containerd.toml", f"""version = 2
root = "{self.directory}/containerd"
state = "{self.directory}/state"
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self.directory}/cni"
""")
        self.write("kubelet.yaml", json.dumps({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}}, "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{CGROUP}{self.number}", "failSwapOn": False, "address": self.address,
            "healthzBindAddress": "127.0.0.1", "oomScoreAdj": 0, "resolvConf": "/dev/null", "volumePluginDir": f"{self.directory}/plugins",
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"}}))
        self.write("proxy.yaml", json.dumps({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables", "clusterCIDR": PODS,
            "clientConnection": {"kubeconfig": f"{self.directory.parent}/proxy.kubeconfig"}, "hostnameOverride": self.name, "oomScoreAdj": 0,
            "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}}))

    def write(self, name, text):
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def ctr(self, *command, **more):
        return self.run("ctr", "-a", self.socket, "-n", "k8s.io", *command, **more)

    def begin(self, images):
        self.start("containerd", "containerd", "-c", f"{self.directory}/containerd.toml")
        wait(lambda: self.ctr("version", check=False).returncode == 0, f"containerd of {self.name}", 30, explain=lambda: self.tail("containerd"))
        for image in images:
            self.ctr("images", "import", image, timeout=300)
        self.start("kubelet", BIN / "kubelet", f"--config={self.directory}/kubelet.yaml",
                   f"--kubeconfig={self.directory.parent}/{self.name}.kubeconfig", f"--hostname-override={self.name}",
                   f"--node-ip={self.address}", "--container-runtime=remote", f"--container-runtime-endpoint=unix://{self.socket}",
                   f"--root-dir={self.directory}/kubelet", f"--cert-dir={self.directory}/pki", "--v=2")
        self.start("kube-proxy", BIN / "kube-proxy", f"--config={self.directory}/proxy.yaml")


def hierarchies():
    """Of cgroup v1."""
    lines = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    return [pathlib.Path(line[1]) for line in lines if line[2] == "cgroup"]


def sweep():
    """The cgroups of a cluster whose processes are gone, this one or one that was killed: the kernel may not have ended them all yet."""
    lines = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    places = [pathlib.Path(line[1]) for line in lines if line[2] in ("cgroup", "cgroup2")]

    def swept():
        tops = [top for place in places for top in place.glob(f"{CGROUP}*")]
        for top in tops:
            for below, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(below)
        return not any(top.exists() for top in tops)

    wait(swept, f"the end of the processes in cgroups {CGROUP}*", 30)


FOLDERS = pathlib.Path("/var/tmp")
NAME, KEPT = "penstock-kube.", "penstock-kube-kept."


class Cluster:
    def __init__(self):
        sweep()
        for old in FOLDERS.glob(f"{NAME}*"):  # of a run that was killed: run.sh lets one be at a time
            shutil.rmtree(old, ignore_errors=True)
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=NAME, dir=FOLDERS))
        self.machines = []
        self.kubeconfig = self.directory / "admin.kubeconfig"

    def __enter__(self):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_):
        self.down()

    # ---- up and down ----

    def up(self):
        self.credentials()
        self.control = Machine("control", self.directory)
        self.machines.append(self.control)
        self.control.run("ip", "link", "add", "br0", "type", "bridge")
        self.control.run("ip", "address", "add", f"{CONTROL}/24", "dev", "br0")
        self.control.run("ip", "address", "add", f"{OUTSIDE}/32", "dev", "lo")
        self.control.run("ip", "link", "set", "br0", "up")
        self.control_plane()
        self.nodes = []
        for number in (1, 2):
            node = Node(number, self.directory)
            self.machines.append(node)
            self.nodes.append(node)
            node.prepare(self.control)
        images = [CACHE / f"{name}.tar" for name in ("pause", "tools", "penstock")]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda node: node.begin(images), self.nodes))
        wait(lambda: self.alive() and len(self.ready_nodes()) == 2, "two nodes that are Ready", 120, explain=self.explain)
        wait(lambda: self.kubectl("get", "serviceaccount", "default"), "the default service account", 60, explain=self.explain)

    def down(self):
        impatience = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for machine in reversed(self.machines):
            machine.end()
        if os.environ.get("KEEP") == "1":
            for machine in self.machines:
                for large in ("containerd", "state", "kubelet", "etcd"):
                    shutil.rmtree(machine.directory / large, ignore_errors=True)
            print("logs:", self.directory.rename(self.directory.with_name(self.directory.name.replace(NAME, KEPT))))
        else:
            shutil.rmtree(self.directory, ignore_errors=True)
        sweep()
        signal.signal(signal.SIGINT, impatience)

    def credentials(self):
        run("openssl", "genrsa", "-out", self.directory / "accounts.key", "2048")
        run("openssl", "rsa", "-in", self.directory / "accounts.key", "-pubout", "-out", self.directory / "accounts.pub")
        (self.directory / "tokens.csv").write_text("".join(
            f'{name}-token,{user},{name}{f",{chr(34)}{group}{chr(34)}" if group else ""}\n' for name, (user, group) in USERS.items()))
        for name in USERS:
            (self.directory / f"{name}.kubeconfig").write_text(json.dumps({
                "apiVersion": "v1", "kind": "Config", "current-context": "it",
                "clusters": [{"name": "it", "cluster": {"server": f"https://{CONTROL}:6443", "insecure-skip-tls-verify": True}}],
                "users": [{"name": "me", "user": {"token": f"{name}-token"}}],
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "me"}}]}))

    def control_plane(self):
        there = self.control
        there.start("etcd", "etcd", "--data-dir", there.directory / "etcd", "--listen-client-urls", "http://127.0.0.1:2379",
                    "--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync")
        there.start("api", BIN / "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", f"--cert-dir={there.directory}/certificates",
                    "--secure-port=6443", f"--bind-address={CONTROL}", f"--advertise-address={CONTROL}",
                    f"--token-auth-file={self.directory}/tokens.csv", "--authorization-mode=Node,RBAC",
                    "--service-account-issuer=https://penstock.test", f"--service-account-key-file={self.directory}/accounts.pub",
                    f"--service-account-signing-key-file={self.directory}/accounts.key", f"--service-cluster-ip-range={SERVICES}",
                    "--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP")
        wait(lambda: self.alive() and self.kubectl("get", "--raw=/readyz"), "the API server", 60, explain=lambda: there.tail("api"))
        there.start("manager", BIN / "kube-controller-manager", f"--kubeconfig={self.directory}/manager.kubeconfig",
                    f"--service-account-private-key-file={self.directory}/accounts.key", "--use-service-account-credentials",
                    f"--root-ca-file={there.directory}/certificates/apiserver.crt", "--leader-elect=false", "--bind-address=127.0.0.1",
                    "--port=0", f"--cert-dir={there.directory}/manager")
        there.start("scheduler", BIN / "kube-scheduler", f"--kubeconfig={self.directory}/scheduler.kubeconfig", "--leader-elect=false",
                    "--bind-address=127.0.0.1", "--port=0", f"--cert-dir={there.directory}/scheduler")

    def alive(self):
        for machine in self.machines:
            machine.alive()
        return True

    def ready_nodes(self):
        return [node for node in self.get("nodes") if any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])]

    # ---- kubectl ----

    def kubectl_command(self, *command):
        return ["nsenter", f"--net=/proc/{self.control.pid}/ns/net", "--", "kubectl", f"--kubeconfig={self.kubeconfig}",
                f"--cache-dir={self.directory}/kubectl", *map(str, command)]

    def kubectl(self, *command, **more):
        return run(*self.kubectl_command(*command), **more).stdout

    def get(self, *what):
        return json.loads(self.kubectl("get", *what, "-o", "json"))["items"]

    def apply(self, objects):
        self.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def rolled_out(self, namespace, name, seconds=120):
        try:
            self.kubectl("-n", namespace, "rollout", "status", f"daemonset/{name}", f"--timeout={seconds}s", timeout=seconds + 10)
        except Failed as failure:
            raise Failed(f"{failure}\n{self.explain(namespace)}") from None

    def explain(self, namespace=None):
        """For a failure: what the cluster says of itself."""
        said = [self.kubectl("get", "nodes,pods", "-A", "-o", "wide", check=False)]
        if namespace:
            said += [self.kubectl("-n", namespace, "get", "events", check=False)[-3000:]]
            for pod in self.kubectl("-n", namespace, "get", "pods", "-o", "name", check=False).split():
                said += [f"{pod}:", self.kubectl("-n", namespace, "logs", pod, "--all-containers", "--tail=20", check=False)]
        for machine in self.machines[1:]:
            said += [f"{machine.name}:"] + [machine.tail(name, 6) for name, _ in machine.running]
        return "\n".join(said)
