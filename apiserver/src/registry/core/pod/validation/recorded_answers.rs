//! What kube-apiserver v1.37.2 answered to pods: the data of the tests in `recorded`.

/// A name for the case, its spec, and the errors in order.
pub(super) type Case = (&'static str, &'static str, &'static [&'static str]);

/// A name, spec and annotations, the errors and the warnings.
pub(super) type Warned = (&'static str, &'static str, &'static str, &'static [&'static str], &'static [&'static str]);

pub(super) const WARNED: &[Warned] = &[
    (
        "beta os selector",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "nodeSelector": {"beta.kubernetes.io/os": "linux"}}"#,
        r#"{}"#,
        &[],
        &[r#"spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead"#],
    ),
    ("seccomp annotation", r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}]}"#, r#"{}"#, &[], &[]),
    (
        "dup env",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}]}"#,
        r#"{}"#,
        &[],
        &[r#"spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply"#],
    ),
    (
        "dup hostAlias",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a"]}, {"ip": "1.1.1.1", "hostnames": ["b"]}]}"#,
        r#"{}"#,
        &[],
        &[r#"spec.hostAliases[1].ip: duplicate ip "1.1.1.1""#],
    ),
    (
        "dup pull secrets",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "imagePullSecrets": [{"name": "a"}, {"name": "a"}]}"#,
        r#"{}"#,
        &[],
        &[r#"spec.imagePullSecrets[1].name: duplicate name "a""#],
    ),
    (
        "empty pull secret",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "imagePullSecrets": [{"name": ""}]}"#,
        r#"{}"#,
        &[],
        &[r#"spec.imagePullSecrets[0].name: invalid empty name """#],
    ),
    (
        "fraction bytes",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1", "resources": {"requests": {"memory": "100m"}}}]}"#,
        r#"{}"#,
        &[],
        &[r#"spec.containers[0].resources.requests[memory]: fractional byte value "100m" is invalid, must be an integer"#],
    ),
    (
        "dup port",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1", "ports": [{"containerPort": 80}, {"containerPort": 80}]}]}"#,
        r#"{}"#,
        &[],
        &[r#"spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"#],
    ),
    (
        "iscsi overlap",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "volumes": [{"name": "g", "gitRepo": {"repository": "r"}}]}"#,
        r#"{}"#,
        &[],
        &[r#"spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"#],
    ),
    (
        "glusterfs",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "volumes": [{"name": "g", "glusterfs": {"endpoints": "e", "path": "p"}}]}"#,
        r#"{}"#,
        &[],
        &[r#"spec.volumes[0].glusterfs: deprecated in v1.25, non-functional in v1.26+"#],
    ),
    (
        "rbd",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "volumes": [{"name": "g", "rbd": {"monitors": ["m"], "image": "i"}}]}"#,
        r#"{}"#,
        &[],
        &[r#"spec.volumes[0].rbd: deprecated in v1.28, non-functional in v1.31+"#],
    ),
    (
        "cephfs",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "volumes": [{"name": "g", "cephfs": {"monitors": ["m"]}}]}"#,
        r#"{}"#,
        &[],
        &[r#"spec.volumes[0].cephfs: deprecated in v1.28, non-functional in v1.31+"#],
    ),
    (
        "grace zero",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "terminationGracePeriodSeconds": -1}"#,
        r#"{}"#,
        &[],
        &[],
    ),
    (
        "sizeless emptyDir",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "volumes": [{"name": "e", "emptyDir": {"medium": "Memory"}}]}"#,
        r#"{}"#,
        &[],
        &[],
    ),
    (
        "dup tolerations",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "tolerations": [{"key": "a", "operator": "Exists"}, {"key": "a", "operator": "Exists"}]}"#,
        r#"{}"#,
        &[],
        &[],
    ),
    (
        "serial preferred",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchExpressions": [{"key": "failure-domain.beta.kubernetes.io/zone", "operator": "Exists"}]}}]}}}"#,
        r#"{}"#,
        &[],
        &[
            r#"spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#,
        ],
    ),
    (
        "pod ip leading zero",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "hostAliases": [{"ip": "010.0.0.1", "hostnames": ["a"]}]}"#,
        r#"{}"#,
        &[r#"spec.hostAliases[0].ip: Invalid value: "010.0.0.1": must not have leading 0s"#],
        &[],
    ),
    (
        "dns search",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["01.1.1.1"]}}"#,
        r#"{}"#,
        &[r#"spec.dnsConfig.nameservers[0]: Invalid value: "01.1.1.1": must not have leading 0s"#],
        &[],
    ),
    (
        "overlapping paths",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}], "volumes": [{"name": "v", "configMap": {"name": "x", "items": [{"key": "a", "path": "p"}, {"key": "b", "path": "p"}]}}]}"#,
        r#"{}"#,
        &[],
        &[r#"volume "v" (ConfigMap "x"): overlapping paths: "p" with "p""#],
    ),
    (
        "old annotations",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}]}"#,
        r#"{"seccomp.security.alpha.kubernetes.io/pod": "runtime/default", "scheduler.alpha.kubernetes.io/critical-pod": ""}"#,
        &[],
        &[
            r#"metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field instead"#,
            r#"metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the "seccompProfile" field instead"#,
        ],
    ),
    (
        "apparmor annotation",
        r#"{"containers": [{"name": "c", "image": "registry.example/image:1"}]}"#,
        r#"{"container.apparmor.security.beta.kubernetes.io/c": "runtime/default"}"#,
        &[],
        &[
            r#"metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the "appArmorProfile" field instead"#,
        ],
    ),
];

pub(super) const CASES: &[Case] = &[
    ("no containers", r#"{}"#, &[r#"spec.containers: Required value"#]),
    ("empty containers", r#"{"containers": []}"#, &[r#"spec.containers: Required value"#]),
    ("no image", r#"{"containers": [{"name": "c"}]}"#, &[r#"spec.containers[0].image: Required value"#]),
    ("no name", r#"{"containers": [{"image": "i"}]}"#, &[r#"spec.containers[0].name: Required value"#]),
    (
        "bad name",
        r#"{"containers": [{"name": "Bad_", "image": "i"}]}"#,
        &[
            r#"spec.containers[0].name: Invalid value: "Bad_": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#,
        ],
    ),
    (
        "two same",
        r#"{"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}"#,
        &[r#"spec.containers[1].name: Duplicate value: "c""#],
    ),
    (
        "image space",
        r#"{"containers": [{"name": "c", "image": " i "}]}"#,
        &[r#"spec.containers[0].image: Invalid value: " i ": must not have leading or trailing whitespace"#],
    ),
    (
        "pull policy",
        r#"{"containers": [{"name": "c", "image": "i", "imagePullPolicy": "Sometimes"}]}"#,
        &[r#"spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never""#],
    ),
    (
        "restartPolicy",
        r#"{"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Maybe"}"#,
        &[r#"spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "OnFailure", "Never""#],
    ),
    (
        "dnsPolicy",
        r#"{"containers": [{"name": "c", "image": "i"}], "dnsPolicy": "Nope"}"#,
        &[r#"spec.dnsPolicy: Unsupported value: "Nope": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None""#],
    ),
    (
        "dns none",
        r#"{"containers": [{"name": "c", "image": "i"}], "dnsPolicy": "None"}"#,
        &[r#"spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"#],
    ),
    ("grace", r#"{"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": -1}"#, &[]),
    (
        "deadline",
        r#"{"containers": [{"name": "c", "image": "i"}], "activeDeadlineSeconds": 0}"#,
        &[r#"spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"#],
    ),
    (
        "port 0",
        r#"{"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 0}]}]}"#,
        &[r#"spec.containers[0].ports[0].containerPort: Required value"#],
    ),
    (
        "port big",
        r#"{"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 70000}]}]}"#,
        &[r#"spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"#],
    ),
    (
        "port proto",
        r#"{"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1, "protocol": "ICMP"}]}]}"#,
        &[r#"spec.containers[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP""#],
    ),
    (
        "port name",
        r#"{"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1, "name": "UPPER"}]}]}"#,
        &[
            r#"spec.containers[0].ports[0].name: Invalid value: "UPPER": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"#,
            r#"spec.containers[0].ports[0].name: Invalid value: "UPPER": must contain at least one letter (a-z)"#,
        ],
    ),
    (
        "port name long",
        r#"{"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1, "name": "abcdefghijklmnop"}]}]}"#,
        &[r#"spec.containers[0].ports[0].name: Invalid value: "abcdefghijklmnop": must be no more than 15 characters"#],
    ),
    (
        "port dup",
        r#"{"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}]}"#,
        &[r#"spec.containers[0].ports[1].name: Duplicate value: "a""#],
    ),
    (
        "hostPort dup",
        r#"{"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]}]}"#,
        &[r#"spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//5""#],
    ),
    (
        "env name",
        r#"{"containers": [{"name": "c", "image": "i", "env": [{"name": "", "value": "a"}]}]}"#,
        &[r#"spec.containers[0].env[0].name: Required value"#],
    ),
    (
        "env eq",
        r#"{"containers": [{"name": "c", "image": "i", "env": [{"name": "a=b", "value": "a"}]}]}"#,
        &[
            r#"spec.containers[0].env[0].name: Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII characters other than '='"#,
        ],
    ),
    (
        "env both",
        r#"{"containers": [{"name": "c", "image": "i", "env": [{"name": "a", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}"#,
        &[r#"spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty"#],
    ),
    (
        "env fieldPath",
        r#"{"containers": [{"name": "c", "image": "i", "env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}}]}]}"#,
        &[
            r#"spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "spec.nope": error converting fieldPath: field label not supported: spec.nope"#,
        ],
    ),
    (
        "env empty from",
        r#"{"containers": [{"name": "c", "image": "i", "env": [{"name": "a", "valueFrom": {}}]}]}"#,
        &[
            r#"spec.containers[0].env[0].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"#,
        ],
    ),
    (
        "mount missing",
        r#"{"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}]}"#,
        &[r#"spec.containers[0].volumeMounts[0].name: Not found: "x""#],
    ),
    (
        "mount dup",
        r#"{"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/x"}, {"name": "v", "mountPath": "/x"}]}]}"#,
        &[r#"spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/x": must be unique"#],
    ),
    (
        "mount subPath",
        r#"{"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "../a"}]}]}"#,
        &[r#"spec.containers[0].volumeMounts.subPath: Invalid value: "../a": must not contain '..'"#],
    ),
    (
        "volume dup",
        r#"{"volumes": [{"name": "v"}, {"name": "v"}], "containers": [{"name": "c", "image": "i"}]}"#,
        &[r#"spec.volumes[1].name: Duplicate value: "v""#],
    ),
    (
        "volume two sources",
        r#"{"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}], "containers": [{"name": "c", "image": "i"}]}"#,
        &[r#"spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"#],
    ),
    (
        "volume name",
        r#"{"volumes": [{"name": "V_"}], "containers": [{"name": "c", "image": "i"}]}"#,
        &[
            r#"spec.volumes[0].name: Invalid value: "V_": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#,
        ],
    ),
    (
        "hostPath type",
        r#"{"volumes": [{"name": "v", "hostPath": {"path": "/", "type": "Nope"}}], "containers": [{"name": "c", "image": "i"}]}"#,
        &[
            r#"spec.volumes[0].hostPath.type: Unsupported value: "Nope": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket""#,
        ],
    ),
    (
        "hostPath back",
        r#"{"volumes": [{"name": "v", "hostPath": {"path": "/a/../b"}}], "containers": [{"name": "c", "image": "i"}]}"#,
        &[r#"spec.volumes[0].hostPath.path: Invalid value: "/a/../b": must not contain '..'"#],
    ),
    (
        "negative",
        r#"{"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "-1"}}}]}"#,
        &[
            r#"spec.containers[0].resources.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0"#,
            r#"spec.containers[0].resources.requests[cpu]: Invalid value: "-1": must be greater than or equal to 0"#,
        ],
    ),
    (
        "request over limit",
        r#"{"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}]}"#,
        &[r#"spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#],
    ),
    (
        "resource name",
        r#"{"containers": [{"name": "c", "image": "i", "resources": {"limits": {"foo": "1"}}}]}"#,
        &[
            r#"spec.containers[0].resources.limits[foo]: Invalid value: "foo": must be a standard resource type or fully qualified"#,
            r#"spec.containers[0].resources.limits[foo]: Invalid value: "foo": must be a standard resource for containers"#,
            r#"spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource type or fully qualified"#,
            r#"spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource for containers"#,
        ],
    ),
    (
        "hugepages",
        r#"{"containers": [{"name": "c", "image": "i", "resources": {"limits": {"hugepages-2Mi": "4Mi"}, "requests": {"hugepages-2Mi": "2Mi", "cpu": "1"}}}]}"#,
        &[r#"spec.containers[0].resources.requests: Invalid value: "2Mi": must be equal to hugepages-2Mi limit of 4Mi"#],
    ),
    (
        "extended uneven",
        r#"{"containers": [{"name": "c", "image": "i", "resources": {"limits": {"example.com/x": "2"}, "requests": {"example.com/x": "1"}}}]}"#,
        &[r#"spec.containers[0].resources.requests: Invalid value: "1": must be equal to example.com/x limit of 2"#],
    ),
    (
        "extended fraction",
        r#"{"containers": [{"name": "c", "image": "i", "resources": {"limits": {"example.com/x": "500m"}}}]}"#,
        &[
            r#"spec.containers[0].resources.limits[example.com/x]: Invalid value: "500m": must be an integer"#,
            r#"spec.containers[0].resources.requests[example.com/x]: Invalid value: "500m": must be an integer"#,
        ],
    ),
    (
        "probe none",
        r#"{"containers": [{"name": "c", "image": "i", "livenessProbe": {}}]}"#,
        &[r#"spec.containers[0].livenessProbe: Required value: must specify a handler type"#],
    ),
    (
        "probe two",
        r#"{"containers": [{"name": "c", "image": "i", "livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}]}"#,
        &[r#"spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"#],
    ),
    (
        "probe success",
        r#"{"containers": [{"name": "c", "image": "i", "livenessProbe": {"exec": {"command": ["a"]}, "successThreshold": 2}}]}"#,
        &[r#"spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"#],
    ),
    (
        "probe negative",
        r#"{"containers": [{"name": "c", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": -1}}]}"#,
        &[r#"spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0"#],
    ),
    (
        "lifecycle empty",
        r#"{"containers": [{"name": "c", "image": "i", "lifecycle": {"preStop": {}}}]}"#,
        &[r#"spec.containers[0].lifecycle.preStop: Required value: must specify a handler type"#],
    ),
    (
        "privileged escalation",
        r#"{"containers": [{"name": "c", "image": "i", "securityContext": {"privileged": true, "allowPrivilegeEscalation": false}}]}"#,
        &[
            r#"spec.containers[0].securityContext: Invalid value: {"Capabilities":null,"Privileged":true,"SELinuxOptions":null,"WindowsOptions":null,"RunAsUser":null,"RunAsGroup":null,"RunAsNonRoot":null,"ReadOnlyRootFilesystem":null,"AllowPrivilegeEscalation":false,"ProcMount":null,"SeccompProfile":null,"AppArmorProfile":null}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true"#,
        ],
    ),
    (
        "runAsUser",
        r#"{"containers": [{"name": "c", "image": "i", "securityContext": {"runAsUser": -1}}]}"#,
        &[r#"spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"#],
    ),
    (
        "seccomp",
        r#"{"containers": [{"name": "c", "image": "i"}], "securityContext": {"seccompProfile": {"type": "Localhost"}}}"#,
        &[r#"spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost"#],
    ),
    (
        "sysctl",
        r#"{"containers": [{"name": "c", "image": "i"}], "securityContext": {"sysctls": [{"name": "Bad Name", "value": "1"}]}}"#,
        &[
            r#"spec.securityContext.sysctls[0].name: Invalid value: "Bad Name": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"#,
        ],
    ),
    (
        "toleration",
        r#"{"containers": [{"name": "c", "image": "i"}], "tolerations": [{"operator": "Exists", "value": "x"}]}"#,
        &[r#"spec.tolerations[0].operator: Invalid value: "x": value must be empty when `operator` is 'Exists'"#],
    ),
    (
        "toleration effect",
        r#"{"containers": [{"name": "c", "image": "i"}], "tolerations": [{"key": "a", "operator": "Equal", "effect": "Nope"}]}"#,
        &[r#"spec.tolerations[0].effect: Unsupported value: "Nope": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute""#],
    ),
    (
        "toleration seconds",
        r#"{"containers": [{"name": "c", "image": "i"}], "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 1}]}"#,
        &[r#"spec.tolerations[0].effect: Invalid value: "NoSchedule": effect must be 'NoExecute' when `tolerationSeconds` is set"#],
    ),
    (
        "nodeSelector",
        r#"{"containers": [{"name": "c", "image": "i"}], "nodeSelector": {"bad key": "v"}}"#,
        &[
            r#"spec.nodeSelector: Invalid value: "bad key": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#,
        ],
    ),
    (
        "affinity op",
        r#"{"containers": [{"name": "c", "image": "i"}], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Nope"}]}]}}}}"#,
        &[
            r#"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator: Invalid value: "Nope": not a valid selector operator"#,
        ],
    ),
    (
        "affinity empty",
        r#"{"containers": [{"name": "c", "image": "i"}], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}"#,
        &[
            r#"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term"#,
        ],
    ),
    (
        "antiaffinity topology",
        r#"{"containers": [{"name": "c", "image": "i"}], "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {}}]}}}"#,
        &[
            r#"spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty"#,
            r#"spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must be non-empty"#,
            r#"spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#,
        ],
    ),
    (
        "spread",
        r#"{"containers": [{"name": "c", "image": "i"}], "topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "Nope"}]}"#,
        &[
            r#"spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"#,
            r#"spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty"#,
            r#"spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "Nope": supported values: "DoNotSchedule", "ScheduleAnyway""#,
        ],
    ),
    (
        "hostname",
        r#"{"containers": [{"name": "c", "image": "i"}], "hostname": "Bad_"}"#,
        &[
            r#"spec.hostname: Invalid value: "Bad_": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#,
        ],
    ),
    (
        "subdomain",
        r#"{"containers": [{"name": "c", "image": "i"}], "subdomain": "Bad_"}"#,
        &[
            r#"spec.subdomain: Invalid value: "Bad_": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#,
        ],
    ),
    (
        "hostAliases",
        r#"{"containers": [{"name": "c", "image": "i"}], "hostAliases": [{"ip": "x", "hostnames": ["Bad_"]}]}"#,
        &[
            r#"spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#,
            r#"spec.hostAliases[0].hostnames[0]: Invalid value: "Bad_": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#,
        ],
    ),
    ("init restart", r#"{"containers": [{"name": "c", "image": "i", "restartPolicy": "Always"}]}"#, &[]),
    (
        "init dup",
        r#"{"containers": [{"name": "c", "image": "i"}], "initContainers": [{"name": "c", "image": "i"}]}"#,
        &[r#"spec.initContainers[0].name: Duplicate value: "c""#],
    ),
    (
        "ephemeral at create",
        r#"{"containers": [{"name": "c", "image": "i"}], "ephemeralContainers": [{"name": "e", "image": "i"}]}"#,
        &[r#"spec.ephemeralContainers: Forbidden: cannot be set on create"#],
    ),
    (
        "scheduler gates dup",
        r#"{"containers": [{"name": "c", "image": "i"}], "schedulingGates": [{"name": "a"}, {"name": "a"}]}"#,
        &[r#"spec.schedulingGates[1]: Duplicate value: "a""#],
    ),
    (
        "os",
        r#"{"containers": [{"name": "c", "image": "i"}], "os": {"name": "plan9"}}"#,
        &[r#"spec.os: Unsupported value: "plan9": supported values: "linux", "windows""#],
    ),
    (
        "os windows",
        r#"{"containers": [{"name": "c", "image": "i"}], "os": {"name": "windows"}, "securityContext": {"runAsUser": 1}}"#,
        &[r#"spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod"#],
    ),
    (
        "hostNetwork port",
        r#"{"hostNetwork": true, "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1, "hostPort": 2}]}]}"#,
        &[r#"spec.containers[0].ports[0].hostPort: Invalid value: 2: must match `containerPort` when `hostNetwork` is true"#],
    ),
    (
        "shareProcess",
        r#"{"containers": [{"name": "c", "image": "i"}], "shareProcessNamespace": true, "hostPID": true}"#,
        &[r#"spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled"#],
    ),
    (
        "termination policy",
        r#"{"containers": [{"name": "c", "image": "i", "terminationMessagePolicy": "Nope"}]}"#,
        &[r#"spec.containers[0].terminationMessagePolicy: Unsupported value: "Nope": supported values: "File", "FallbackToLogsOnError""#],
    ),
    (
        "configMap no name",
        r#"{"volumes": [{"name": "v", "configMap": {}}], "containers": [{"name": "c", "image": "i"}]}"#,
        &[r#"spec.volumes[0].configMap.name: Required value"#],
    ),
    (
        "mode",
        r#"{"volumes": [{"name": "v", "configMap": {"name": "a", "defaultMode": 9999}}], "containers": [{"name": "c", "image": "i"}]}"#,
        &[r#"spec.volumes[0].configMap.defaultMode: Invalid value: 9999: must be a number between 0 and 0777 (octal), both inclusive"#],
    ),
    (
        "item path",
        r#"{"volumes": [{"name": "v", "configMap": {"name": "a", "items": [{"key": "k", "path": "../x"}]}}], "containers": [{"name": "c", "image": "i"}]}"#,
        &[r#"spec.volumes[0].configMap.items[0].path: Invalid value: "../x": must not contain '..'"#],
    ),
    (
        "nodeName",
        r#"{"containers": [{"name": "c", "image": "i"}], "nodeName": "Bad_Node"}"#,
        &[
            r#"spec.nodeName: Invalid value: "Bad_Node": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#,
        ],
    ),
    ("imagePullSecrets", r#"{"containers": [{"name": "c", "image": "i"}], "imagePullSecrets": [{"name": ""}]}"#, &[]),
    (
        "resourceClaims",
        r#"{"containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "x"}]}}]}"#,
        &[r#"spec.containers[0].resources.claims[0]: Not found: "x": must be one of the names in pod.spec.resourceClaims which is empty"#],
    ),
    (
        "claims both",
        r#"{"resourceClaims": [{"name": "a", "resourceClaimName": "x", "resourceClaimTemplateName": "y"}], "containers": [{"name": "c", "image": "i"}]}"#,
        &[
            r#"spec.resourceClaims[0]: Invalid value: {"Name":"a","ResourceClaimName":"x","ResourceClaimTemplateName":"y"}: at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"#,
        ],
    ),
    (
        "readiness gate",
        r#"{"containers": [{"name": "c", "image": "i"}], "readinessGates": [{"conditionType": "Bad Type!"}]}"#,
        &[
            r#"spec.readinessGates[0].conditionType: Invalid value: "Bad Type!": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#,
        ],
    ),
    (
        "dnsConfig",
        r#"{"containers": [{"name": "c", "image": "i"}], "dnsConfig": {"nameservers": ["x"], "searches": ["Bad_!"]}}"#,
        &[
            r#"spec.dnsConfig.nameservers[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#,
            r#"spec.dnsConfig.searches[0]: Invalid value: "Bad_!": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')"#,
        ],
    ),
    ("setHostname", r#"{"containers": [{"name": "c", "image": "i"}], "setHostnameAsFQDN": true, "hostNetwork": true}"#, &[]),
    (
        "resize policy",
        r#"{"containers": [{"name": "c", "image": "i", "resizePolicy": [{"resourceName": "x", "restartPolicy": "y"}]}]}"#,
        &[
            r#"spec.containers[0].resizePolicy: Unsupported value: "x": supported values: "cpu", "memory""#,
            r#"spec.containers[0].resizePolicy: Unsupported value: "y": supported values: "NotRequired", "RestartContainer""#,
        ],
    ),
    (
        "hostUsers",
        r#"{"containers": [{"name": "c", "image": "i"}], "hostUsers": false, "hostNetwork": true}"#,
        &[r#"spec.hostNetwork: Forbidden: when `hostUsers` is false"#],
    ),
    (
        "emptyDir",
        r#"{"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "-1"}}], "containers": [{"name": "c", "image": "i"}]}"#,
        &[r#"spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity"#],
    ),
];
