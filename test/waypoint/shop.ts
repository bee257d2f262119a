/** A shop of three services behind a waypoint, configured with objects as a folder or a cluster has them. */

import { createServer, type Server } from 'node:http';

import type { Test } from 'tap';

import { unwrap } from '../../src/base/result.ts';
import type { SpiffeId } from '../../src/core/identity.ts';
import { decodeWaypointService, waypointServiceResource } from '../../src/discovery/codec-route.ts';
import { decodeTraffic, trafficResource } from '../../src/discovery/codec-traffic.ts';
import { gatewayApi, Model, namespace, read, service, type Json } from '../controlplane/build.ts';
import { ask, rigFor, type Answer } from './ask.ts';
import type { Rig } from './rig.ts';

const NAMES = ['cart', 'cart-v1', 'cart-v2'] as const;

export interface Shop {
  readonly rig: Rig;
  readonly model: Model;
  readonly servers: ReadonlyMap<string, Server>;
  /** Takes objects as a folder or cluster would give them, and waits for nothing: the waypoint has them at once. */
  readonly apply: (...objects: readonly Json[]) => void;
  /** The same for what was done to the model itself. */
  readonly publish: () => void;
  readonly get: (headers?: Record<string, string>, identity?: SpiffeId) => Promise<Answer>;
  /** How often each name answered. */
  readonly count: (times: number, headers?: Record<string, string>) => Promise<Map<string, number>>;
}

export async function shop(t: Test): Promise<Shop> {
  const servers = new Map(
    NAMES.map((name) => [name as string, createServer((_, response) => void response.end(name))]),
  );
  const rig = await rigFor(t, [...servers.values()], (ports) => ({
    apps: NAMES.map((name, index) => ({ name, ports: [ports[index] ?? 0] })),
  }));
  const model = new Model().put(
    namespace('shop', { 'nodemesh.dev/waypoint': 'way' }),
    gatewayApi('Gateway', 'shop/way', { gatewayClassName: 'nodemesh-waypoint' }),
    ...NAMES.map((name, index) =>
      service(`shop/${name}`, {
        clusterIP: `10.96.0.${index + 1}`,
        ports: [{ port: 80, appProtocol: 'http' }],
      }),
    ),
  );
  const apply = (...objects: readonly Json[]): void => {
    model.put(...objects.map(read));
    publish();
  };
  const publish = (): void => {
    model.publish();
    const services = [...(model.waypoints.get('shop/way')?.values() ?? [])];
    const policies = [...(model.traffic.get('shop/way')?.values() ?? [])];
    rig.plans.apply(
      services.map((one) => unwrap(decodeWaypointService(waypointServiceResource(one).body))),
      [],
    );
    rig.traffic.apply(
      policies.map((one) => unwrap(decodeTraffic(trafficResource(one).body))),
      [],
    );
  };
  const get: Shop['get'] = async (headers = {}, identity) =>
    ask(await rig.open('cart', identity), { headers });
  const count: Shop['count'] = async (times, headers) => {
    const found = new Map<string, number>();
    for (let i = 0; i < times; i++) {
      const { body } = await get(headers);
      found.set(body, (found.get(body) ?? 0) + 1);
    }
    return found;
  };
  return { rig, model, publish, servers, apply, get, count };
}
