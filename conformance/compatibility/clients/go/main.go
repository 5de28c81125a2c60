// What programs on client-go do to an API server, kind by kind and client by client; it ends at the first thing that is not as it should be.
//
//	clients --kubeconfig FILE
//
// Asks for an API server and nothing else: controllers would change the objects under its hands.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

const namespace = "clients"

// session has every client of client-go, and what went over their wires.
type session struct {
	config   *rest.Config
	wire     *wire
	typed    *kubernetes.Clientset
	dynamic  dynamic.Interface
	metadata metadata.Interface
	mapper   *restmapper.DeferredDiscoveryRESTMapper
}

func newSession(kubeconfig string) (*session, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = -1, -1
	config.WarningHandler = rest.NoWarnings{}
	s := &session{config: config, wire: &wire{}}
	config.Wrap(s.wire.wrap)
	protobuf := rest.CopyConfig(config)
	protobuf.ContentType = runtime.ContentTypeProtobuf
	// /version is told in JSON alone.
	protobuf.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	if s.typed, err = kubernetes.NewForConfig(protobuf); err != nil {
		return nil, err
	}
	if s.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return nil, err
	}
	if s.metadata, err = metadata.NewForConfig(metadata.ConfigFor(config)); err != nil {
		return nil, err
	}
	s.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(s.typed.Discovery()))
	return s, nil
}

// prepare makes the namespace that the rest happens in, and what the service account controller would put there.
func (s *session) prepare(ctx context.Context) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := s.typed.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	_, err := s.typed.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{})
	return err
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server, as its administrator")
	flag.Parse()
	s, err := newSession(*kubeconfig)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"a namespace", s.prepare},
		{"discovery", s.discovery},
		{"typed clients, in protobuf", s.kinds},
		{"subresources", s.subresources},
		{"pages", s.pages},
		{"scale", s.scale},
		{"apply", s.apply},
		{"the dynamic client", s.dynamicClient},
		{"the metadata client", s.metadataClient},
		{"informers", s.informers},
		{"a watch that is cut", s.retriedWatch},
	} {
		started := time.Now()
		if err := part.run(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "FAILED: %s: %v\n", part.name, err)
			os.Exit(1)
		}
		fmt.Printf("%s: %d ms\n", part.name, time.Since(started).Milliseconds())
	}
}
