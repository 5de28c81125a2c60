package main

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
)

// discovery asks in the aggregated form, which takes two requests for everything, and maps kinds and short names.
func (s *session) discovery(context.Context) error {
	_, before := s.wire.since(0)
	groups, resources, err := s.typed.Discovery().ServerGroupsAndResources()
	if err != nil {
		return err
	}
	exchanges, _ := s.wire.since(before)
	if len(exchanges) != 2 {
		return fmt.Errorf("it took %d requests", len(exchanges))
	}
	for _, e := range exchanges {
		if !strings.Contains(e.received, "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList") {
			return fmt.Errorf("%s was answered with %s", e.path, e.received)
		}
	}
	if len(groups) < 20 || len(resources) < 23 {
		return fmt.Errorf("%d groups with %d versions", len(groups), len(resources))
	}
	// The old way tells the same.
	old := discovery.NewDiscoveryClientForConfigOrDie(s.config)
	old.UseLegacyDiscovery = true
	_, legacy, err := old.ServerGroupsAndResources()
	if err != nil {
		return err
	}
	if a, b := names(flat(resources)), names(flat(legacy)); a != b {
		return fmt.Errorf("aggregated discovery has %s\nlegacy discovery has %s", a, b)
	}
	if _, err := s.typed.Discovery().ServerPreferredResources(); err != nil {
		return err
	}
	if _, err := s.typed.Discovery().OpenAPISchema(); err != nil {
		return err
	}
	paths, err := s.typed.Discovery().OpenAPIV3().Paths()
	if err != nil {
		return err
	}
	document, err := paths["apis/apps/v1"].Schema("application/com.github.proto-openapi.spec.v3@v1.0+protobuf")
	if err != nil || len(document) == 0 {
		return fmt.Errorf("the document of apps/v1: %d bytes, %v", len(document), err)
	}

	cache := memory.NewMemCacheClient(s.typed.Discovery())
	mapper := restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(cache), cache, func(warning string) {})
	_, before = s.wire.since(0)
	for short, expected := range map[string]string{
		"po": "pods", "deploy": "deployments", "cm": "configmaps", "hpa": "horizontalpodautoscalers", "crd": "customresourcedefinitions",
		"sc": "storageclasses", "netpol": "networkpolicies", "pdb": "poddisruptionbudgets", "sts": "statefulsets",
	} {
		found, err := mapper.ResourceFor(schema.GroupVersionResource{Resource: short})
		if err != nil || found.Resource != expected {
			return fmt.Errorf("%s is %v, %v", short, found, err)
		}
	}
	if exchanges, _ := s.wire.since(before); len(exchanges) != 2 {
		return fmt.Errorf("the cache sent %d requests", len(exchanges))
	}
	cache.Invalidate()
	mapping, err := s.mapper.RESTMapping(schema.GroupKind{Group: "batch", Kind: "CronJob"})
	if err != nil || mapping.Resource != (schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "cronjobs"}) || mapping.Scope.Name() != "namespace" {
		return fmt.Errorf("CronJob is mapped to %v, %v", mapping, err)
	}
	version, err := s.typed.Discovery().ServerVersion()
	if err != nil || version.Major != "1" || version.Minor != "37" {
		return fmt.Errorf("the version is %v, %v", version, err)
	}
	return nil
}
