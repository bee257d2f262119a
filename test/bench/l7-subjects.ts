/**
 * The proxies of the L7 bench on loopback, in front of one server that costs next to nothing. They are made alike: one
 * worker, the same routes, a policy that looks at the client, a JSON access log line of about twenty fields for each
 * request (ours has 25) into a file, their own metrics, the same forwarding headers and a request id, paths normalised.
 */

import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { freePort } from '../support/free-port.ts';
import type { L7Case, SubjectName } from './l7-cases.ts';
import type { Place } from './l7-load.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const ENVOY = join(ROOT, '.cache/envoy/envoy/_bin/envoy');
const START_TRIES = 300;
const START_LOOK_MS = 100;

/** Whatever carries the traffic of one subject. */
export interface Running {
  readonly place: Place;
  /** Whose CPU time counts. */
  readonly pids: () => readonly number[];
  stop(): Promise<void> | void;
}

export const hasEnvoy = (): boolean => existsSync(ENVOY);

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

const BODY = '"the same forty bytes for every subject.."';

/** The server behind all of them, for HTTP/1.1 and for HTTP/2. */
export function startUpstream(dir: string, http1: number, http2: number): ChildProcess {
  const config = join(dir, 'l7-upstream.cfg');
  const answer = 'http-request return status 200 content-type';
  writeFileSync(
    config,
    `global
  nbthread 1
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend http1
  bind 127.0.0.1:${http1}
  ${answer} text/plain string ${BODY}
frontend http2
  bind 127.0.0.1:${http2} proto h2
  ${answer} application/grpc hdr grpc-status 0 string ${BODY}
`,
  );
  return spawn('haproxy', ['-db', '-f', config], { stdio: 'ignore' });
}

/** Fields of our access log, as HAProxy calls them. */
const HAPROXY_LOG: Readonly<Record<string, string>> = {
  time: '%[date,utime(%Y-%m-%dT%H:%M:%S)]',
  src_addr: '%ci:%cp',
  dst_addr: '%si:%sp',
  service: '%b',
  server: '%s',
  protocol: '%HV',
  method: '%HM',
  authority: '%[capture.req.hdr(0)]',
  path: '%HPO',
  user_agent: '%[capture.req.hdr(1)]',
  request_id: '%ID',
  status: '%ST',
  request_bytes: '%U',
  response_bytes: '%B',
  duration: '%Ta',
  upstream_time: '%Tr',
  attempts: '%rc',
  flag: '%tsc',
};

function haproxyConfig({ routes, grpc }: L7Case, port: number, upstream: number): string {
  const rules = Array.from(
    { length: routes - 1 },
    (_, index) => `  use_backend app if { path_beg /service-${index + 1}/v1 }`,
  );
  const proto = grpc ? ' proto h2' : '';
  const fields = Object.entries(HAPROXY_LOG).map(([name, value]) => `"${name}":"${value}"`);
  return `global
  nbthread 1
  log stdout format raw local0
  expose-experimental-directives
defaults
  mode http
  log global
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend front
  bind 127.0.0.1:${port}${proto}
  log-format '{${fields.join(',')}}'
  unique-id-format %[uuid()]
  unique-id-header x-request-id
  declare capture request len 64
  declare capture request len 64
  http-request capture req.hdr(host) id 0
  http-request capture req.hdr(user-agent) id 1
  http-request normalize-uri path-merge-slashes
  http-request normalize-uri path-strip-dotdot
  http-request deny unless { src 127.0.0.0/8 }
  http-request set-header x-client spiffe://cluster.local/ns/shop/sa/web
  option forwardfor
${rules.join('\n')}
  default_backend app
backend app
  http-reuse always
  server one 127.0.0.1:${upstream}${proto}
`;
}

/** The same as Envoy calls them. */
const ENVOY_LOG: Readonly<Record<string, string>> = {
  time: '%START_TIME%',
  src_addr: '%DOWNSTREAM_REMOTE_ADDRESS%',
  src_identity: '%DOWNSTREAM_PEER_URI_SAN%',
  dst_addr: '%UPSTREAM_HOST%',
  service: '%UPSTREAM_CLUSTER%',
  protocol: '%PROTOCOL%',
  method: '%REQ(:METHOD)%',
  authority: '%REQ(:AUTHORITY)%',
  path: '%REQ(:PATH)%',
  user_agent: '%REQ(USER-AGENT)%',
  request_id: '%REQ(X-REQUEST-ID)%',
  route: '%ROUTE_NAME%',
  status: '%RESPONSE_CODE%',
  request_bytes: '%BYTES_RECEIVED%',
  response_bytes: '%BYTES_SENT%',
  duration: '%DURATION%',
  upstream_time: '%RESPONSE_DURATION%',
  attempts: '%UPSTREAM_REQUEST_ATTEMPT_COUNT%',
  flag: '%RESPONSE_FLAGS%',
  code: '%RESPONSE_CODE_DETAILS%',
};

function envoyConfig({ routes, grpc }: L7Case, port: number, upstream: number): string {
  const cluster = { cluster: 'app' };
  const rules = Array.from({ length: routes - 1 }, (_, index) => ({
    name: `route-${index + 1}`,
    match: { path_separated_prefix: `/service-${index + 1}/v1` },
    route: cluster,
  }));
  const type = 'type.googleapis.com/envoy.extensions';
  const manager = {
    '@type': `${type}.filters.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: 'front',
    codec_type: grpc ? 'HTTP2' : 'HTTP1',
    use_remote_address: true,
    normalize_path: true,
    merge_slashes: true,
    access_log: [
      {
        name: 'log',
        typed_config: {
          '@type': `${type}.access_loggers.stream.v3.StdoutAccessLog`,
          log_format: { json_format: ENVOY_LOG },
        },
      },
    ],
    route_config: {
      request_headers_to_add: [
        { header: { key: 'x-client', value: 'spiffe://cluster.local/ns/shop/sa/web' } },
      ],
      virtual_hosts: [
        {
          name: 'all',
          domains: ['*'],
          routes: [...rules, { name: 'route-0', match: { prefix: '/' }, route: cluster }],
        },
      ],
    },
    http_filters: [
      {
        name: 'rbac',
        typed_config: {
          '@type': `${type}.filters.http.rbac.v3.RBAC`,
          rules: {
            action: 'ALLOW',
            policies: {
              all: {
                permissions: [{ any: true }],
                principals: [{ direct_remote_ip: { address_prefix: '127.0.0.0', prefix_len: 8 } }],
              },
            },
          },
        },
      },
      { name: 'router', typed_config: { '@type': `${type}.filters.http.router.v3.Router` } },
    ],
  };
  const socket = (number: number): object => ({
    socket_address: { address: '127.0.0.1', port_value: number },
  });
  const http2 = {
    'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
      '@type': `${type}.upstreams.http.v3.HttpProtocolOptions`,
      explicit_http_config: { http2_protocol_options: {} },
    },
  };
  return JSON.stringify({
    static_resources: {
      listeners: [
        {
          address: socket(port),
          filter_chains: [{ filters: [{ name: 'http', typed_config: manager }] }],
        },
      ],
      clusters: [
        {
          name: 'app',
          type: 'STATIC',
          ...(grpc ? { typed_extension_protocol_options: http2 } : {}),
          load_assignment: {
            cluster_name: 'app',
            endpoints: [{ lb_endpoints: [{ endpoint: { address: socket(upstream) } }] }],
          },
        },
      ],
    },
  });
}

function spawnProxy(
  subject: SubjectName,
  what: L7Case,
  port: number,
  upstream: number,
  dir: string,
): ChildProcess {
  const log = openSync(join(dir, `l7-${subject}.log`), 'w');
  const stdio: ['ignore', number, number] = ['ignore', log, log];
  switch (subject) {
    case 'nodemesh':
      return spawn(process.execPath, [join(import.meta.dirname, 'l7-proxy.ts')], {
        stdio,
        env: {
          ...process.env,
          // As the image sets them, and as the node proxy does for its workers.
          MALLOC_TRIM_THRESHOLD_: '134217728',
          MALLOC_MMAP_THRESHOLD_: '33554432',
          MALLOC_TOP_PAD_: '1048576',
          BENCH_PORT: String(port),
          BENCH_UPSTREAM_PORT: String(upstream),
          BENCH_ROUTES: String(what.routes),
          BENCH_PROTOCOL: what.grpc ? 'HTTP2' : 'HTTP11',
        },
      });
    case 'envoy': {
      const config = join(dir, 'l7-envoy.json');
      writeFileSync(config, envoyConfig(what, port, upstream));
      const args = ['-c', config, '--concurrency', '1', '--use-dynamic-base-id', '-l', 'error'];
      return spawn(ENVOY, args, { stdio });
    }
    case 'haproxy': {
      const config = join(dir, 'l7-haproxy.cfg');
      writeFileSync(config, haproxyConfig(what, port, upstream));
      return spawn('haproxy', ['-db', '-f', config], { stdio });
    }
    case 'l4':
    case 'direct':
      throw new Error(`"${subject}" is no proxy on loopback`);
  }
}

async function whenReady(child: ChildProcess, what: L7Case, port: number): Promise<void> {
  const probe = what.grpc ? ['--http2-prior-knowledge'] : [];
  const url = `http://127.0.0.1:${port}/`;
  for (let tries = 0; tries < START_TRIES; tries++) {
    if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}`);
    if (spawnSync('curl', ['-sf', '-o', '/dev/null', ...probe, url]).status === 0) return;
    await pause(START_LOOK_MS);
  }
  throw new Error('it does not answer');
}

/** Starts a proxy and waits until it answers. */
export async function startProxy(
  subject: SubjectName,
  what: L7Case,
  upstream: number,
  dir: string,
): Promise<Running> {
  const port = await freePort();
  const child = spawnProxy(subject, what, port, upstream, dir);
  child.on('error', () => {});
  const stop = (): void => void child.kill('SIGKILL');
  try {
    await whenReady(child, what, port);
  } catch (error) {
    stop();
    throw error;
  }
  const { pid = 0 } = child;
  return { place: { netns: undefined, host: '127.0.0.1', port }, pids: () => [pid], stop };
}
