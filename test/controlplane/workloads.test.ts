/** Pods, services, slices and nodes → workloads and services. */

import t from 'tap';

import { Model, namespace, node, own, pod, read, service, slice, type Json } from './build.ts';

const app = { app: 'web' };

function endpointPorts(model: Model, path: string): Json {
  const ports = [...model.workload(path).services].map(([key, list]) => [
    key.split('.')[0],
    list.map(({ servicePort, targetPort }) => `${servicePort}:${targetPort}`).join(' '),
  ]);
  return Object.fromEntries(ports) as Json;
}

t.test('a pod becomes a workload with everything a node needs', (t) => {
  const model = new Model().put(
    node('node-a', 'eu', 'eu-1'),
    pod('shop/web-1', {
      uid: 'u1',
      sa: 'web',
      ips: ['10.0.0.1', 'fd00:0:0::1'],
      labels: { ...app, version: 'v2', 'pod-template-hash': '5d4f' },
      owner: { kind: 'ReplicaSet', name: 'web-5d4f', controller: true },
      phase: 'Running',
      ready: true,
    }),
  );
  model.settleAll();
  t.match(model.workload('shop/web-1'), {
    uid: 'Kubernetes//Pod/shop/web-1',
    addresses: ['10.0.0.1', 'fd00::1'],
    tunnelProtocol: 'none',
    trustDomain: 'cluster.local',
    serviceAccount: 'web',
    node: 'node-a',
    canonicalName: 'web',
    canonicalRevision: 'v2',
    workloadType: 'DEPLOYMENT',
    workloadName: 'web',
    healthy: true,
    clusterId: 'Kubernetes',
    locality: { region: 'eu', zone: 'eu-1', subzone: '' },
    hostNetwork: false,
    localDelivery: true,
  });
  t.match(model.local('node-a', 'u1'), {
    enrolled: false,
    workloadUid: 'Kubernetes//Pod/shop/web-1',
  });
  t.end();
});

t.test('owners: Deployment, StatefulSet, Job, CronJob, nobody', (t) => {
  const rows: [Json | undefined, Json, string, string][] = [
    [
      { kind: 'ReplicaSet', name: 'a-1', controller: true },
      { 'pod-template-hash': '1' },
      'DEPLOYMENT',
      'a',
    ],
    [{ kind: 'ReplicaSet', name: 'a-1', controller: true }, {}, 'DEPLOYMENT', 'a-1'],
    [{ kind: 'StatefulSet', name: 'db', controller: true }, {}, 'POD', 'db'],
    [{ kind: 'Job', name: 'once', controller: true }, {}, 'JOB', 'once'],
    [{ kind: 'Job', name: 'nightly-29012345', controller: true }, {}, 'CRONJOB', 'nightly'],
    [{ kind: 'ReplicaSet', name: 'a-1' }, {}, 'POD', 'p'],
    [undefined, {}, 'POD', 'p'],
  ];
  for (const [owner, labels, type, name] of rows) {
    const shape = { ip: '10.0.0.1', labels, ...(owner === undefined ? {} : { owner }) };
    const model = new Model().put(pod('shop/p', shape)).settleAll();
    const { workloadType, workloadName } = model.workload('shop/p');
    t.same([workloadType, workloadName], [type, name]);
  }
  t.end();
});

t.test('probe ports: HTTP, TCP, gRPC, named, of sidecars, not at other hosts', (t) => {
  const spec = {
    initContainers: [
      { name: 'side', restartPolicy: 'Always', startupProbe: { tcpSocket: { port: 9 } } },
    ],
    containers: [
      {
        name: 'app',
        ports: [{ name: 'http', containerPort: 8080 }],
        readinessProbe: { httpGet: { port: 'http', path: '/' } },
        livenessProbe: { grpc: { port: 7000 } },
        startupProbe: { httpGet: { port: 1234, host: '10.1.1.1' } },
      },
      // No port has this name: Kubernetes takes it, and the kubelet probes nothing.
      { name: 'lost', livenessProbe: { httpGet: { port: 'metrics' } } },
      { name: 'exec', readinessProbe: { exec: { command: ['true'] } } },
    ],
  };
  const model = new Model().put(pod('shop/p', { uid: 'u', spec })).settleAll();
  t.same(model.local('node-a', 'u')?.probePorts, [9, 7000, 8080]);
  t.end();
});

t.test('services: host name, VIPs, families and the balancing table (hbone 3.4)', (t) => {
  const rows: [Json, Json][] = [
    [{}, { mode: 'UNSPECIFIED', preference: [], includeUnhealthy: false }],
    [{ internalTrafficPolicy: 'Local' }, { mode: 'STRICT', preference: ['NODE'] }],
    [
      { trafficDistribution: 'PreferClose' },
      { mode: 'FAILOVER', preference: ['NETWORK', 'REGION', 'ZONE'] },
    ],
    [
      { trafficDistribution: 'PreferSameZone' },
      { mode: 'FAILOVER', preference: ['NETWORK', 'REGION', 'ZONE'] },
    ],
    [
      { trafficDistribution: 'PreferSameNode' },
      { mode: 'FAILOVER', preference: ['NETWORK', 'REGION', 'ZONE', 'SUBZONE', 'NODE'] },
    ],
    [
      { trafficDistribution: 'PreferSameNode', internalTrafficPolicy: 'Local' },
      { mode: 'STRICT', preference: ['NODE'] },
    ],
    [{ trafficDistribution: 'Tomorrow' }, { mode: 'UNSPECIFIED', preference: [] }],
    [{ publishNotReadyAddresses: true }, { includeUnhealthy: true }],
  ];
  for (const [spec, balancing] of rows) {
    const model = new Model()
      .put(service('shop/web', { ...spec, ports: [{ port: 80 }] }))
      .settleAll();
    t.match(model.services.get('shop/web.shop.svc.cluster.local')?.balancing, balancing);
  }
  for (const [word, clientAffinity] of [
    ['ClientIP', true],
    ['None', false],
  ] as const) {
    const model = new Model().put(service('shop/web', { sessionAffinity: word })).settleAll();
    t.match(model.services.get('shop/web.shop.svc.cluster.local'), { clientAffinity });
  }
  const families: [Json, string][] = [
    [{ clusterIP: '10.96.0.1' }, 'IPV4_ONLY'],
    [{ clusterIP: 'fd00::1' }, 'IPV6_ONLY'],
    [{ clusterIPs: ['10.96.0.1', 'fd00::1'] }, 'DUAL'],
    [{ clusterIP: 'None' }, 'AUTOMATIC'],
    [{ clusterIP: 'None', ipFamilies: ['IPv6'] }, 'IPV6_ONLY'],
  ];
  for (const [spec, expected] of families) {
    const model = new Model().put(service('shop/web', spec)).settleAll();
    t.equal(model.services.get('shop/web.shop.svc.cluster.local')?.ipFamilies, expected);
  }
  t.end();
});

t.test('traffic distribution by annotation: the service, then its namespace', (t) => {
  const key = 'networking.istio.io/traffic-distribution';
  const balancing = (model: Model): unknown =>
    model.settleAll().services.get('shop/web.shop.svc.cluster.local')?.balancing.preference.at(-1);
  const model = new Model().put(
    service('shop/web', {}),
    namespace('shop', {}, { [key]: 'PreferClose' }),
  );
  t.equal(balancing(model), 'ZONE');
  model.put(service('shop/web', {}, { [key]: 'PreferSameNode' }));
  t.equal(balancing(model), 'NODE');
  model.put(
    service('shop/web', { trafficDistribution: 'PreferClose' }, { [key]: 'PreferSameNode' }),
  );
  t.equal(balancing(model), 'ZONE');
  t.end();
});

t.test('named target ports are each pod’s own; unnamed ones and UDP', (t) => {
  const named = (port: number): Json => ({
    containers: [{ ports: [{ name: 'http', containerPort: port }] }],
  });
  const model = new Model().put(
    service('shop/web', {
      selector: app,
      ports: [
        { name: 'a', port: 80, targetPort: 'http' },
        { name: 'b', port: 81 },
        { name: 'dns', port: 53, protocol: 'UDP' },
      ],
    }),
    pod('shop/one', { ip: '10.0.0.1', labels: app, spec: named(8080) }),
    pod('shop/two', { ip: '10.0.0.2', labels: app, spec: named(9090) }),
    pod('shop/three', { ip: '10.0.0.3', labels: app }),
    pod('other/web', { ip: '10.0.0.4', labels: app }),
  );
  model.settleAll();
  const { ports = [] } = model.services.get('shop/web.shop.svc.cluster.local') ?? {};
  t.same(
    ports.map(({ servicePort, targetPort }) => [servicePort, targetPort]),
    [
      [80, 0],
      [81, 81],
    ],
  );
  t.same(endpointPorts(model, 'shop/one'), { 'shop/web': '80:8080 81:81' });
  t.same(endpointPorts(model, 'shop/two'), { 'shop/web': '80:9090 81:81' });
  t.same(endpointPorts(model, 'shop/three'), { 'shop/web': '81:81' });
  t.same(endpointPorts(model, 'other/web'), {});
  model.remove('Service', 'shop/web').settleAll();
  t.same(endpointPorts(model, 'shop/one'), {});
  t.equal(model.services.size, 0);
  t.end();
});

t.test('ExternalName and terminal pods publish nothing', (t) => {
  const model = new Model().put(
    service('shop/web', { type: 'ExternalName', externalName: 'x.example', selector: app }),
    pod('shop/one', { uid: 'u', ip: '10.0.0.1', labels: app, phase: 'Succeeded' }),
    pod('shop/two', { ip: '10.0.0.2', labels: app }),
  );
  model.settleAll();
  t.equal(model.services.size, 0);
  t.same([...model.workloads.keys()], ['Kubernetes//Pod/shop/two']);
  t.same(endpointPorts(model, 'shop/two'), {});
  t.equal(model.local('node-a', 'u'), undefined);
  t.end();
});

t.test('health: ready and not going', (t) => {
  const healthy = (shape: Json): boolean =>
    new Model()
      .put(pod('shop/p', { ip: '10.0.0.1', ...shape }))
      .settleAll()
      .workload('shop/p').healthy;
  t.equal(healthy({}), true, 'written by hand: an address is enough');
  t.equal(healthy({ phase: 'Running', ready: true }), true);
  t.equal(healthy({ phase: 'Running', ready: false }), false);
  t.equal(healthy({ phase: 'Pending' }), false);
  t.equal(healthy({ phase: 'Running', ready: true, deleted: '2026-01-01T00:00:00Z' }), false);
  t.end();
});

t.test('an address belongs to the newest live pod', (t) => {
  const at = (day: number): string => `2026-01-0${day}T00:00:00Z`;
  const model = new Model().put(
    pod('shop/old', { ip: '10.0.0.1', created: at(1) }),
    pod('shop/new', { ips: ['10.0.0.1', 'fd00::1'], created: at(2) }),
    pod('shop/done', { ip: '10.0.0.1', created: at(3), phase: 'Failed' }),
    pod('shop/host', { ip: '10.0.0.1', created: at(4), hostNetwork: true }),
  );
  const owners = (): unknown =>
    [...model.settleAll().workloads.values()]
      .toSorted((a, b) => (a.name < b.name ? -1 : 1))
      .map(({ name, addresses }) => [name, addresses]);
  t.same(owners(), [
    ['host', ['10.0.0.1']],
    ['new', ['10.0.0.1', 'fd00::1']],
  ]);
  model.remove('Pod', 'shop/new');
  t.same(owners(), [
    ['host', ['10.0.0.1']],
    ['old', ['10.0.0.1']],
  ]);
  t.end();
});

t.test('endpoints that are no pods, and slices in place of a selector', (t) => {
  const model = new Model().put(
    service('shop/ext', { ports: [{ name: 'sql', port: 5432 }] }),
    slice('shop/ext-1', 'ext', {
      addressType: 'IPv4',
      ports: [{ name: 'sql', port: 15432 }],
      endpoints: [
        { addresses: ['192.0.2.1'], conditions: { ready: true } },
        { addresses: ['192.0.2.2'], conditions: { ready: false } },
        { addresses: ['10.0.0.1'] },
      ],
    }),
    pod('other/p', { uid: 'u', ip: '10.0.0.1', sa: 'p' }),
  );
  model.settleAll();
  const raw = (ip: string) =>
    model.workloads.get(`Kubernetes/discovery.k8s.io/EndpointSlice/shop/ext-1/${ip}`);
  t.match(raw('192.0.2.1'), { healthy: true, serviceAccount: '', tunnelProtocol: 'none' });
  t.match(
    [...(raw('192.0.2.1')?.services.values() ?? [])],
    [[{ servicePort: 5432, targetPort: 15432 }]],
  );
  t.equal(raw('192.0.2.2')?.healthy, false);
  t.equal(
    raw('10.0.0.1'),
    undefined,
    'T102: somebody’s pod is never published without its identity',
  );
  t.same(endpointPorts(model, 'other/p'), { 'shop/ext': '5432:15432' });
  model.remove('Pod', 'other/p').settleAll();
  t.match(raw('10.0.0.1'), { healthy: true });
  model.put(service('shop/ext', { ports: [{ name: 'other', port: 1 }] })).settleAll();
  t.same([...(raw('192.0.2.1')?.services.values() ?? [])], [[]], 'a port nobody serves');
  model.remove('EndpointSlice', 'shop/ext-1').settleAll();
  t.equal(model.workloads.size, 0);

  model.put(
    service('shop/web', { selector: app, ports: [{ port: 80 }] }),
    pod('shop/one', { ip: '10.0.0.1', labels: app }),
    pod('shop/two', { ip: '10.0.0.2', labels: app }),
    slice('shop/web-1', 'web', {
      ports: [{ port: 8080 }],
      endpoints: [{ addresses: ['10.0.0.2'] }],
    }),
  );
  model.settleAll();
  t.same(endpointPorts(model, 'shop/one'), {});
  t.same(endpointPorts(model, 'shop/two'), { 'shop/web': '80:8080' });
  model.remove('EndpointSlice', 'shop/web-1').settleAll();
  t.same(endpointPorts(model, 'shop/one'), { 'shop/web': '80:80' });
  t.same(endpointPorts(model, 'shop/two'), { 'shop/web': '80:80' });
  t.end();
});

t.test('the direct path is off wherever something may filter packets', (t) => {
  const network = (path: string, podSelector: Json): ReturnType<typeof read> => {
    const [ns, name] = path.split('/');
    return read({
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: { namespace: ns, name },
      spec: { podSelector },
    });
  };
  const foreign = (metadata: Json): ReturnType<typeof read> =>
    read({ apiVersion: 'cilium.io/v2', kind: 'CiliumNetworkPolicy', metadata });
  const direct = (...objects: ReturnType<typeof read>[]): boolean =>
    new Model()
      .put(pod('shop/p', { ip: '10.0.0.1', labels: app }), ...objects)
      .settleAll()
      .workload('shop/p').localDelivery;
  t.equal(direct(), true);
  t.equal(direct(network('shop/n', {})), false);
  t.equal(direct(network('other/n', {})), true);
  t.equal(direct(network('shop/n', { matchLabels: app })), false);
  t.equal(direct(network('shop/n', { matchLabels: { app: 'x' } })), true);
  const terms = (operator: string, values?: string[]): Json => ({
    matchExpressions: [{ key: 'app', operator, ...(values === undefined ? {} : { values }) }],
  });
  t.equal(direct(network('shop/n', terms('In', ['web', 'x']))), false);
  t.equal(direct(network('shop/n', terms('NotIn', ['web']))), true);
  t.equal(direct(network('shop/n', terms('Exists'))), false);
  t.equal(direct(network('shop/n', terms('DoesNotExist'))), true);
  t.equal(direct(foreign({ namespace: 'shop', name: 'n' })), false);
  t.equal(direct(foreign({ namespace: 'other', name: 'n' })), true);
  t.equal(direct(foreign({ name: 'n' })), false, 'cluster-wide');
  t.equal(direct(own('MeshConfig', 'nodemesh-system/default', { localDelivery: 'tunnel' })), false);
  t.end();
});

t.test('MeshConfig: names, settings, and what was named otherwise goes', (t) => {
  const model = new Model({ trustDomain: 'example.org' }).put(
    node('node-a', 'eu', 'eu-1'),
    service('shop/web', { selector: app, ports: [{ port: 80 }] }),
    pod('shop/p', { ip: '10.0.0.1', labels: app }),
  );
  model.settleAll();
  const spec = {
    trustDomain: 'example.org',
    clusterId: 'c1',
    clusterDomain: 'local.example',
    network: 'n1',
    localDelivery: 'tunnel',
  };
  model.put(own('MeshConfig', 'nodemesh-system/default', spec)).settleAll();
  t.same([...model.workloads.keys()], ['c1//Pod/shop/p']);
  t.same([...model.services.keys()], ['shop/web.shop.svc.local.example']);
  t.match(model.workloads.get('c1//Pod/shop/p'), { trustDomain: 'example.org', network: 'n1' });
  t.match(model.nodeSettings.get('node-a'), {
    localDelivery: 'tunnel',
    clusterId: 'c1',
    trustDomain: 'example.org',
    region: 'eu',
    zone: 'eu-1',
  });
  t.same([...model.world.conditions()], []);
  model
    .put(own('MeshConfig', 'nodemesh-system/default', { trustDomain: 'other.example' }))
    .settleAll();
  t.match(
    model.workloads.get('Kubernetes//Pod/shop/p'),
    { trustDomain: 'example.org' },
    'the CA’s',
  );
  t.match([...model.world.conditions()], [{ reason: 'TrustDomainMismatch' }]);
  model.remove('MeshConfig', 'nodemesh-system/default').settleAll();
  t.same([...model.world.conditions()], []);
  t.same([...model.workloads.keys()], ['Kubernetes//Pod/shop/p']);
  model.world.connect('node-b');
  model.settleAll();
  t.match(model.nodeSettings.get('node-b'), { region: '', node: 'node-b' });
  model.world.disconnect('node-b');
  model.remove('Node', 'node-a').settleAll();
  t.equal(model.nodeSettings.size, 0);
  t.end();
});
