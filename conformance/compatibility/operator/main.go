// An operator as people write them with controller-runtime: typed objects of a custom kind, a cache, leader election, owned objects, a
// finalizer and a status.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

const finalizer = "compatibility.example.com/pages"

var groupVersion = schema.GroupVersion{Group: "compatibility.example.com", Version: "v1"}

// Board asks for pages.
type Board struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              struct {
		Text  string `json:"text"`
		Pages int    `json:"pages"`
	} `json:"spec"`
	Status struct {
		Pages              int   `json:"pages,omitempty"`
		ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	} `json:"status,omitempty"`
}

func (b *Board) DeepCopyObject() runtime.Object {
	out := *b
	b.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	return &out
}

type BoardList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Board `json:"items"`
}

func (l *BoardList) DeepCopyObject() runtime.Object {
	out := &BoardList{TypeMeta: l.TypeMeta}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopyObject().(*Board))
	}
	return out
}

type reconciler struct {
	client.Client
}

func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var board Board
	if err := r.Get(ctx, request.NamespacedName, &board); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !board.DeletionTimestamp.IsZero() {
		if err := r.DeleteAllOf(ctx, &corev1.ConfigMap{}, client.InNamespace(board.Namespace), client.MatchingLabels{"board": board.Name}); err != nil {
			return ctrl.Result{}, err
		}
		controllerutil.RemoveFinalizer(&board, finalizer)
		return ctrl.Result{}, r.Update(ctx, &board)
	}
	if controllerutil.AddFinalizer(&board, finalizer) {
		if err := r.Update(ctx, &board); err != nil {
			return ctrl.Result{}, err
		}
	}
	for page := range board.Spec.Pages {
		pageMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: board.Namespace, Name: fmt.Sprintf("%s-%d", board.Name, page)}}
		if _, err := controllerutil.CreateOrUpdate(ctx, r.Client, pageMap, func() error {
			pageMap.Labels = map[string]string{"board": board.Name}
			pageMap.Data = map[string]string{"text": board.Spec.Text}
			return controllerutil.SetControllerReference(&board, pageMap, r.Scheme())
		}); err != nil {
			return ctrl.Result{}, err
		}
	}
	board.Status.Pages, board.Status.ObservedGeneration = board.Spec.Pages, board.Generation
	return ctrl.Result{}, r.Status().Update(ctx, &board)
}

func run() error {
	ctrl.SetLogger(zap.New())
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return err
	}
	scheme.AddKnownTypes(groupVersion, &Board{}, &BoardList{})
	metav1.AddToGroupVersion(scheme, groupVersion)
	manager, err := ctrl.NewManager(ctrl.GetConfigOrDie(), ctrl.Options{
		Scheme:                  scheme,
		Metrics:                 server.Options{BindAddress: "0"},
		LeaderElection:          true,
		LeaderElectionID:        "boards.compatibility.example.com",
		LeaderElectionNamespace: "default",
	})
	if err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(manager).For(&Board{}).Owns(&corev1.ConfigMap{}).Complete(&reconciler{manager.GetClient()})
	if err != nil {
		return err
	}
	return manager.Start(ctrl.SetupSignalHandler())
}

func main() {
	// The library has declared --kubeconfig.
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
