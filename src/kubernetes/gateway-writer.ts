/**
 * Makes what Gateways ask for, and has the status of Gateway API objects and of services written. Only the leader
 * writes, only what has changed, one round at a time.
 *
 * - Objects are applied by server-side apply under one field manager. An object of that name that is not the
 *   Gateway's own is left alone, and the Gateway's status says so: a Gateway must not take over a service.
 * - What a round could not write is tried again with the next one, at the latest after `RESYNC_MS`.
 */

import { createBackoff } from '../base/backoff.ts';
import type { Clock, Timer } from '../base/clock.ts';
import type { Random } from '../base/random.ts';
import type { Logger } from '../base/logger.ts';
import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import type { GatewayApiView, GatewayState } from '../controlplane/gateway-status.ts';
import { APPLY_CONTENT_TYPE, statusOf, type ApiClient } from './api-client.ts';
import { writeGatewayStatus, writeStatuses } from './gateway-api-status.ts';
import { listOf, StatusPatches, type Json } from './status-patches.ts';
import {
  rootConfigMap,
  waypointObjects,
  type KubernetesObject,
  type WaypointDeploymentValues,
} from './waypoint-objects.ts';

export const RESYNC_MS = 300_000;
/** After a round that failed somewhere: what is refused once is refused again, as often as not. */
const RETRY = { initialMs: 2_000, maxMs: 60_000 };
const GATHER_MS = 100;
const FIELD_MANAGER = 'nodemesh-controller';

export interface GatewayWriterOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly client: ApiClient;
  readonly values: WaypointDeploymentValues;
  readonly leads: () => boolean;
  readonly view: () => GatewayApiView;
  /** PEM of the roots that vouch for the controller. */
  readonly roots: () => string;
}

export interface GatewayWriter extends AsyncDisposable {
  /** Something may have changed. */
  poke(): void;
}

export function createGatewayWriter(options: GatewayWriterOptions): GatewayWriter {
  const { clock, logger } = options;
  const backoff = createBackoff(options.random, RETRY);
  let timer: Timer | undefined;
  let running: Promise<void> | undefined;
  let again = false;
  let closed = false;
  let led = false;
  // A round is as long as the cluster has services: who has lost the lease or ends stops inside it.
  const isOver = (): boolean => closed || !options.leads();
  const round = new WritingRound(options, isOver);

  const run = async (): Promise<void> => {
    timer = undefined;
    if (!options.leads()) {
      led = false;
      return;
    }
    // Another may have written meanwhile.
    if (!led) round.forget();
    led = true;
    const failed = await round.write();
    if (failed > 0) schedule(backoff.nextMs());
    else backoff.reset();
  };
  const schedule = (delayMs: number): void => {
    if (closed || timer !== undefined) return;
    timer = clock.after(delayMs, () => {
      timer = undefined;
      if (running !== undefined) {
        again = true;
        return;
      }
      running = run()
        .catch((error: unknown) => logger.error('Cannot write Gateway API objects', { error }))
        .finally(() => {
          running = undefined;
          if (again) schedule(GATHER_MS);
          again = false;
        });
    });
  };
  const resync = clock.every(RESYNC_MS, () => {
    round.forget();
    schedule(GATHER_MS);
  });
  return {
    poke: () => schedule(GATHER_MS),
    async [Symbol.asyncDispose]() {
      closed = true;
      resync.cancel();
      timer?.cancel();
      await running;
    },
  };
}

/** What was written last, by path: what is the same need not be written again. */
class WritingRound {
  readonly #options: GatewayWriterOptions;
  readonly #patches: StatusPatches;
  readonly #written = new Map<string, string>();
  readonly #isOver: () => boolean;
  #failed = 0;

  constructor(options: GatewayWriterOptions, isOver: () => boolean) {
    const { client, logger } = options;
    this.#options = options;
    this.#isOver = isOver;
    this.#patches = new StatusPatches({ client, logger, fieldManager: FIELD_MANAGER, isOver });
  }

  forget(): void {
    this.#written.clear();
    this.#patches.forget();
  }

  /** Returns how many writes failed. */
  async write(): Promise<number> {
    this.#failed = 0;
    this.#patches.begin();
    const view = this.#options.view();
    const wanted = new Set<string>();
    await this.#roots(view.gateways, wanted);
    for (const state of view.gateways) {
      const conflict = await this.#make(state, wanted);
      await writeGatewayStatus(state, conflict, this.#patches, this.#now);
    }
    await writeStatuses(view, this.#patches, this.#now);
    if (this.#isOver()) return 0;
    for (const path of this.#written.keys()) if (!wanted.has(path)) this.#written.delete(path);
    this.#patches.end();
    return this.#failed + this.#patches.failed;
  }

  get #now(): string {
    return new Date(this.#options.clock.wallMs()).toISOString().replace(/\.\d+Z$/, 'Z');
  }

  async #roots(states: readonly GatewayState[], wanted: Set<string>): Promise<void> {
    const pem = this.#options.roots();
    const namespaces = Map.groupBy(states, ({ gateway }) => gateway.meta.namespace);
    for (const inNamespace of namespaces.values()) {
      const gateways = inNamespace.map(({ gateway }) => gateway);
      const object = rootConfigMap(gateways, pem);
      // The controller's own namespace has them already.
      if (object === undefined || object.metadata.namespace === 'nodemesh-system') continue;
      await this.#apply(object, wanted);
    }
  }

  /** Returns what of somebody else stands in the way. */
  async #make({ gateway }: GatewayState, wanted: Set<string>): Promise<string> {
    for (const object of waypointObjects(gateway, this.#options.values)) {
      const applied = await this.#own(object, gateway.uid, wanted);
      if (!applied.ok) return applied.error.message;
    }
    return '';
  }

  /** Applies what belongs to the Gateway; refuses to touch what belongs to somebody else. */
  async #own(object: KubernetesObject, uid: string, wanted: Set<string>): Promise<Result<void>> {
    const path = pathOf(object);
    if (!this.#written.has(path)) {
      const found = await this.#options.client.request({ path });
      if (found.ok && !isOwned(found.value, uid)) {
        const { name, namespace } = object.metadata;
        const message = `${object.kind} "${namespace}/${name}" exists and is not this Gateway's`;
        return fail(new MeshError('MESH_API_REFUSED', message));
      }
    }
    await this.#apply(object, wanted);
    return ok(undefined);
  }

  async #apply(object: KubernetesObject, wanted: Set<string>): Promise<void> {
    if (this.#isOver()) return;
    const path = pathOf(object);
    wanted.add(path);
    const content = JSON.stringify(object);
    if (this.#written.get(path) === content) return;
    const answer = await this.#options.client.request({
      method: 'PATCH',
      path,
      query: { fieldManager: FIELD_MANAGER, force: 'true' },
      contentType: APPLY_CONTENT_TYPE,
      body: object,
    });
    if (answer.ok) this.#written.set(path, content);
    else {
      this.#failed++;
      // Somebody else wrote meanwhile: the next round tries again.
      if (statusOf(answer.error) === 409) return;
      this.#options.logger.warn('Cannot apply an object of a Gateway', {
        path,
        error: answer.error,
      });
    }
  }
}

const PLURALS: Readonly<Record<string, string>> = {
  ServiceAccount: 'serviceaccounts',
  Service: 'services',
  ConfigMap: 'configmaps',
  Deployment: 'deployments',
  PodDisruptionBudget: 'poddisruptionbudgets',
  HorizontalPodAutoscaler: 'horizontalpodautoscalers',
};

function pathOf({ apiVersion, kind, metadata }: KubernetesObject): string {
  const group = apiVersion.includes('/') ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
  return `${group}/namespaces/${metadata.namespace}/${PLURALS[kind] ?? ''}/${metadata.name}`;
}

function isOwned(object: unknown, uid: string): boolean {
  const metadata = (object as { metadata?: Json } | undefined)?.metadata ?? {};
  return listOf(metadata['ownerReferences']).some((owner) => owner['uid'] === uid);
}
