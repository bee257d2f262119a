/** Kubernetes objects of the tests as plain data: namespaces, the demo's applications as Deployments, Services. */

export type KubeObject = Readonly<Record<string, unknown>>;

export const APP_IMAGE = 'nodemesh.test/app:1';

export interface NamespaceOptions {
  /** Whether its pods are in the mesh. Default false. */
  readonly mesh?: boolean;
  /** Whether plain text is refused. Default false. */
  readonly strict?: boolean;
}

/** A namespace, in the mesh or not, with its PeerAuthentication. */
export function namespaceObjects(name: string, options: NamespaceOptions = {}): KubeObject[] {
  const labels = options.mesh === true ? { 'nodemesh.dev/mesh': 'enabled' } : {};
  const objects: KubeObject[] = [
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } },
  ];
  if (options.strict === true) objects.push(strictObject(name));
  return objects;
}

function strictObject(namespace: string): KubeObject {
  return {
    apiVersion: 'nodemesh.dev/v1alpha1',
    kind: 'PeerAuthentication',
    metadata: { name: 'default', namespace },
    spec: { mtls: { mode: 'STRICT' } },
  };
}

export interface AppOptions {
  /** What the app serves; default nothing: it idles, and is told what to do. */
  readonly serve?: { readonly protocol: 'http' | 'db'; readonly port: number };
  /** Arguments of the pod program, instead of `serve`. */
  readonly args?: readonly string[];
  readonly version?: string;
  readonly replicas?: number;
  readonly node?: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** Further fields of the pod's spec and of its container. */
  readonly pod?: KubeObject;
  readonly container?: KubeObject;
}

/** The pod's labels and spec: one container named `app`, ready when it listens, and a service account named as the app. */
export function podTemplate(name: string, options: AppOptions = {}): KubeObject {
  const { serve, version = 'v1' } = options;
  const idle = options.args ?? ['idle'];
  const args = serve ? ['serve', name, version, String(serve.port), serve.protocol] : idle;
  return {
    metadata: { labels: { app: name, version, ...options.labels } },
    spec: {
      serviceAccountName: name,
      terminationGracePeriodSeconds: 10,
      ...(options.node === undefined
        ? {}
        : { nodeSelector: { 'kubernetes.io/hostname': options.node } }),
      containers: [
        {
          name: 'app',
          image: APP_IMAGE,
          imagePullPolicy: 'IfNotPresent',
          args,
          // Without a request a pod comes last whenever the machine is busy.
          resources: { requests: { cpu: '50m' } },
          ...(serve
            ? {
                ports: [{ name: `${serve.protocol}-main`, containerPort: serve.port }],
                // So that rolled out means listening, not only started.
                readinessProbe: { tcpSocket: { port: serve.port }, periodSeconds: 1 },
              }
            : {}),
          ...options.container,
        },
      ],
      ...options.pod,
    },
  };
}

/** A ServiceAccount, a Deployment, and a Service of the same name when it serves. */
export function appObjects(
  namespace: string,
  name: string,
  options: AppOptions = {},
): KubeObject[] {
  const objects: KubeObject[] = [
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace } },
    {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name, namespace },
      spec: {
        replicas: options.replicas ?? 1,
        selector: { matchLabels: { app: name } },
        template: podTemplate(name, options),
      },
    },
  ];
  if (options.serve) objects.push(serviceObject(namespace, name, options.serve));
  return objects;
}

/** The Service `name` on the app's own port; `spec` replaces fields of it. */
export function serviceObject(
  namespace: string,
  name: string,
  serve: { readonly protocol: 'http' | 'db'; readonly port: number },
  spec: KubeObject = {},
): KubeObject {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace },
    spec: {
      selector: { app: name },
      ports: [{ name: serve.protocol === 'db' ? 'tcp-db' : 'http', port: serve.port }],
      ...spec,
    },
  };
}
