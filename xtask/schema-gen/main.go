// Schema-gen writes the schema table of one Kubernetes minor version.
//
// It reads the published Go API types (struct tags and comment markers) and keeps the facts that the wire depends
// on: names, order, types, defaults, list and map types, patch strategies, protobuf numbers, enums and unions. The
// result is then compared with the published OpenAPI documents, and any difference in property names, required
// properties, list, map and patch extensions, defaults, unions or kinds is an error.
//
// Descriptions come from the k8s-openapi crate when apimachinery is built. Those that it lacks are written beside the
// table: of lists, of query parameters, and of what values mean.
//
// Regenerate with
//
//	cargo run -p xtask -- schema
//
// which runs `go run . -out ../../apimachinery/schema/v1.37.schema -descriptions …/v1.37.descriptions` here. For
// another minor version change the versions below, and the files' names in xtask and in apimachinery (table.rs,
// build.rs). The modules come from the Go module proxy; nothing of them is compiled.
package main

import (
	"flag"
	"fmt"
	"os"
	"sort"
)

const (
	kubernetesVersion = "v1.37.2"
	libraryVersion    = "v0.37.2"
)

// apiPackage is a Go package that holds one version of an API group.
type apiPackage struct {
	path, group, version string
}

// The group-versions that are served by default, and what the API server speaks besides them.
var apiPackages = []apiPackage{
	{"k8s.io/apimachinery/pkg/apis/meta/v1", "meta.k8s.io", "v1"},
	{"k8s.io/apimachinery/pkg/version", "", ""},
	{"k8s.io/api/core/v1", "", "v1"},
	{"k8s.io/api/admission/v1", "admission.k8s.io", "v1"},
	{"k8s.io/api/admissionregistration/v1", "admissionregistration.k8s.io", "v1"},
	{"k8s.io/api/apidiscovery/v2", "apidiscovery.k8s.io", "v2"},
	{"k8s.io/api/apps/v1", "apps", "v1"},
	{"k8s.io/api/authentication/v1", "authentication.k8s.io", "v1"},
	{"k8s.io/api/authorization/v1", "authorization.k8s.io", "v1"},
	{"k8s.io/api/autoscaling/v1", "autoscaling", "v1"},
	{"k8s.io/api/autoscaling/v2", "autoscaling", "v2"},
	{"k8s.io/api/batch/v1", "batch", "v1"},
	{"k8s.io/api/certificates/v1", "certificates.k8s.io", "v1"},
	{"k8s.io/api/coordination/v1", "coordination.k8s.io", "v1"},
	{"k8s.io/api/discovery/v1", "discovery.k8s.io", "v1"},
	{"k8s.io/api/events/v1", "events.k8s.io", "v1"},
	{"k8s.io/api/flowcontrol/v1", "flowcontrol.apiserver.k8s.io", "v1"},
	{"k8s.io/api/networking/v1", "networking.k8s.io", "v1"},
	{"k8s.io/api/node/v1", "node.k8s.io", "v1"},
	{"k8s.io/api/policy/v1", "policy", "v1"},
	{"k8s.io/api/rbac/v1", "rbac.authorization.k8s.io", "v1"},
	{"k8s.io/api/resource/v1", "resource.k8s.io", "v1"},
	{"k8s.io/api/scheduling/v1", "scheduling.k8s.io", "v1"},
	{"k8s.io/api/storage/v1", "storage.k8s.io", "v1"},
	{"k8s.io/api/storagemigration/v1", "storagemigration.k8s.io", "v1"},
	{"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1", "apiextensions.k8s.io", "v1"},
	{"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1", "apiregistration.k8s.io", "v1"},
}

func main() {
	out := flag.String("out", "", "the table to write")
	texts := flag.String("descriptions", "", "the file of descriptions to write")
	flag.Parse()
	if err := run(*out, *texts); err != nil {
		fmt.Fprintln(os.Stderr, "schema-gen:", err)
		os.Exit(1)
	}
}

func run(out, texts string) error {
	if out == "" || texts == "" {
		return fmt.Errorf("-out and -descriptions are required")
	}
	src, err := findModules()
	if err != nil {
		return err
	}
	t := &table{src: src, structs: map[string]*structType{}}
	for _, p := range apiPackages {
		if err := t.addPackage(p); err != nil {
			return fmt.Errorf("%s: %w", p.path, err)
		}
	}
	sort.Slice(t.order, func(i, j int) bool { return t.order[i].name < t.order[j].name })
	if err := compareWithPublished(t, src.dirs["k8s.io/kubernetes"]); err != nil {
		return err
	}
	described, err := describe(t, src.dirs["k8s.io/kubernetes"])
	if err != nil {
		return err
	}
	if err := os.WriteFile(texts, described.text(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(out, t.text(), 0o644)
}
