use super::*;
use crate::registry::core::tests::{cx, messages};

/// A service with the defaults, and with an address unless it says otherwise.
fn service(spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
    default_service(service.as_object_mut().unwrap());
    let spec = service["spec"].as_object_mut().unwrap();
    if spec["type"] != "ExternalName" && !spec.contains_key("clusterIP") {
        spec.insert("clusterIP".into(), "10.96.0.5".into());
        spec.insert("clusterIPs".into(), json!(["10.96.0.5"]));
        spec.insert("ipFamilies".into(), json!(["IPv4"]));
        spec.insert("ipFamilyPolicy".into(), "SingleStack".into());
    }
    service
}

fn check(spec: Value) -> Vec<String> {
    messages(&ServiceStrategy.validate(&cx(), &service(spec)))
}

#[test]
fn defaults_depend_on_the_type() {
    let cases = [
        (
            json!({"ports": [{"port": 80}], "sessionAffinityConfig": {}}),
            json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "sessionAffinity": "None", "type": "ClusterIP",
                "internalTrafficPolicy": "Cluster"}),
        ),
        (
            json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP"}),
            json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true}),
        ),
        (
            json!({"type": "ExternalName", "externalName": "a"}),
            json!({"type": "ExternalName", "externalName": "a", "sessionAffinity": "None"}),
        ),
        (
            json!({"externalIPs": ["1.2.3.4"], "ports": [{"port": 1, "targetPort": ""}, {"port": 2, "targetPort": 0}, {"port": 3, "targetPort": "x"}]}),
            json!({"externalIPs": ["1.2.3.4"],
                "ports": [{"port": 1, "targetPort": 1, "protocol": "TCP"}, {"port": 2, "targetPort": 2, "protocol": "TCP"}, {"port": 3, "targetPort": "x", "protocol": "TCP"}],
                "sessionAffinity": "None", "type": "ClusterIP", "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster"}),
        ),
    ];
    for (given, want) in cases {
        let mut service = json!({"spec": given});
        default_service(service.as_object_mut().unwrap());
        assert_eq!(service["spec"], want);
    }
    let mut balanced =
        json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}, {"hostname": "a"}]}}});
    default_service(balanced.as_object_mut().unwrap());
    assert_eq!(balanced["status"]["loadBalancer"]["ingress"], json!([{"ip": "1.1.1.1", "ipMode": "VIP"}, {"hostname": "a"}]));
}

#[test]
fn rules_read_as_upstreams() {
    let cases = [
        (json!({"selector": {"a": "b"}}), vec!["spec.ports: Required value"]),
        (json!({"clusterIP": "None", "clusterIPs": ["None"]}), vec![]),
        (
            json!({"type": "NodePort", "clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 1}]}),
            vec!["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
        ),
        (
            json!({"ports": [{"port": 1}, {"port": 1, "name": "a"}]}),
            vec![
                "spec.ports[0].name: Required value",
                "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":1,\"TargetPort\":0,\"NodePort\":0}",
            ],
        ),
        (
            json!({"ports": [{"port": 0, "targetPort": 1, "nodePort": 3, "protocol": "X"}]}),
            vec![
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ],
        ),
        (
            json!({"type": "Bogus", "sessionAffinity": "X", "ports": [{"port": 1}], "externalTrafficPolicy": "Local", "healthCheckNodePort": 3}),
            vec![
                "spec.sessionAffinity: Unsupported value: \"X\": supported values: \"ClientIP\", \"None\"",
                "spec.type: Unsupported value: \"Bogus\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
                "spec.healthCheckNodePort: Invalid value: 3: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ],
        ),
        (
            json!({"type": "ExternalName", "clusterIPs": ["1.1.1.1"], "loadBalancerClass": "a"}),
            vec![
                "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
                "spec.externalName: Required value",
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ],
        ),
        (
            json!({"ports": [{"port": 1}], "externalIPs": ["010.1.1.1", "127.0.0.1"]}),
            vec![
                "spec.externalIPs[0]: Invalid value: \"010.1.1.1\": must not have leading 0s",
                "spec.externalIPs[1]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            json!({"ports": [{"port": 1}], "loadBalancerSourceRanges": ["10.0.0.0/8"], "trafficDistribution": "Far"}),
            vec![
                "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.trafficDistribution: Unsupported value: \"Far\": supported values: \"PreferClose\", \"PreferSameZone\", \"PreferSameNode\"",
            ],
        ),
        (
            json!({"ports": [{"port": 1}], "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.6", "10.96.0.7"], "ipFamilies": ["IPv6", "IPv6"]}),
            vec![
                "spec.clusterIPs: Invalid value: [\"10.96.0.6\",\"10.96.0.7\"]: first value must match `clusterIP`",
                "spec.ipFamilies[1]: Duplicate value: \"IPv6\"",
                "spec.clusterIPs: Invalid value: [\"10.96.0.6\",\"10.96.0.7\"]: may specify no more than one IP for each IP family",
                "spec.clusterIPs[0]: Invalid value: \"10.96.0.6\": expected an IPv6 value as indicated by `ipFamilies[0]`",
                "spec.clusterIPs[1]: Invalid value: \"10.96.0.7\": expected an IPv6 value as indicated by `ipFamilies[1]`",
            ],
        ),
    ];
    for (spec, want) in cases {
        assert_eq!(check(spec.clone()), want, "{spec}");
    }
}

#[test]
fn an_address_stays() {
    let old = service(json!({"ports": [{"port": 1}]}));
    let mut new = old.clone();
    new["spec"]["clusterIP"] = "10.96.0.6".into();
    new["spec"]["clusterIPs"] = json!(["10.96.0.6"]);
    assert_eq!(
        messages(&ServiceStrategy.validate_update(&cx(), &new, &old)),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.6\"]: may not change once set"]
    );
}

#[test]
fn a_changed_type_drops_what_it_cannot_use() {
    let mut old = service(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}));
    old["status"] = json!({"loadBalancer": {}});
    let mut internal = old.clone();
    internal["spec"]["type"] = "ClusterIP".into();
    ServiceStrategy.prepare_for_update(&cx(), &mut internal, &old);
    assert!(internal["spec"].get("externalTrafficPolicy").is_none());
    assert!(internal["spec"]["ports"][0].get("nodePort").is_none());
    assert_eq!(messages(&ServiceStrategy.validate_update(&cx(), &internal, &old)), Vec::<String>::new());

    let mut external = old.clone();
    external["spec"]["type"] = "ExternalName".into();
    external["spec"]["externalName"] = "x.example".into();
    ServiceStrategy.prepare_for_update(&cx(), &mut external, &old);
    assert_eq!(
        external["spec"],
        json!({"type": "ExternalName", "externalName": "x.example", "sessionAffinity": "None", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
    );
    assert_eq!(messages(&ServiceStrategy.validate_update(&cx(), &external, &old)), Vec::<String>::new());
}

#[test]
fn a_status_is_for_load_balancers() {
    let with = |kind: &str, ingress: Value| {
        let mut service = service(json!({"type": kind, "ports": [{"port": 1}]}));
        service["status"] = json!({"loadBalancer": {"ingress": ingress}});
        service
    };
    let plain = with("ClusterIP", json!([{"ip": "1.1.1.1", "ipMode": "VIP"}]));
    assert_eq!(
        messages(&StatusStrategy.validate_update(&cx(), &plain, &plain)),
        ["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]
    );
    let balanced = with("LoadBalancer", json!([{"ip": "1.1.1.1", "ipMode": "X"}, {"ipMode": "VIP", "hostname": "1.2.3.4"}]));
    assert_eq!(
        messages(&StatusStrategy.validate_update(&cx(), &balanced, &balanced)),
        [
            "status.loadBalancer.ingress[0].ipMode: Unsupported value: \"X\": supported values: \"Proxy\", \"VIP\"",
            "status.loadBalancer.ingress[1].ipMode: Forbidden: may not be specified when `ip` is not set",
            "status.loadBalancer.ingress[1].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
        ]
    );
}

#[test]
fn what_is_ignored_or_old_is_warned_about() {
    let cases = [
        (
            json!({"clusterIP": "None", "clusterIPs": ["None"], "sessionAffinity": "ClientIP", "externalIPs": ["1.2.3.4"]}),
            vec!["spec.externalIPs is ignored for headless services", "spec.SessionAffinity is ignored for headless services"],
        ),
        (
            json!({"externalIPs": ["1.2.3.4"], "externalName": "x", "trafficDistribution": "PreferClose"}),
            vec![
                "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
                "spec.externalName is ignored when spec.type is not \"ExternalName\"",
                "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
            ],
        ),
    ];
    for (spec, want) in cases {
        assert_eq!(ServiceStrategy.warnings_on_create(&cx(), &service(spec)), want);
    }
}

#[test]
fn the_table_shows_where_a_service_is_reached() {
    let text = |service: &Value| -> Vec<String> {
        cells(service, Timestamp::UNIX_EPOCH).iter().map(|cell| cell.as_str().unwrap().to_owned()).collect()
    };
    let mut balanced = service(
        json!({"type": "LoadBalancer", "externalIPs": ["1.2.3.4"], "selector": {"app": "x"}, "ports": [{"port": 80, "nodePort": 30080}, {"port": 81, "protocol": "UDP"}]}),
    );
    assert_eq!(text(&balanced)[1..5], ["LoadBalancer", "10.96.0.5", "1.2.3.4", "80:30080/TCP,81/UDP"]);
    balanced["status"] = json!({"loadBalancer": {"ingress": [{"hostname": "b"}, {"ip": "1.1.1.1"}]}});
    assert_eq!(text(&balanced)[3], "1.1.1.1,b,1.2.3.4");
    assert_eq!(
        text(&service(json!({"type": "ExternalName", "externalName": "e.example"}))),
        ["s", "ExternalName", "<none>", "e.example", "<none>", "<unknown>", "<none>"]
    );
}
