/**
 * Turns changes of the world into updates of the caches: gathers what comes within a moment into one batch,
 * works in slices that leave the loop to others, and reports acknowledgements back to the world.
 *
 * - One batch runs at a time; what arrives meanwhile is in it or makes the next one.
 * - What the source tells at once is published at once: a batch never ends between its parts.
 * - Nothing is published before `start`: until the source has told everything once, what is missing would
 *   look deleted.
 * - Who is in the mesh is stored before it is published, so that a restart never takes it back.
 */

import type { Clock, Timer } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import { createTimeSlice } from '../base/time-slice.ts';
import { TYPE_URL } from '../discovery/type-urls.ts';
import type { Acknowledgements } from './acknowledgements.ts';
import type { CaptureStore } from './capture-store.ts';
import type { EnrolmentSharing } from './enrolment-sharing.ts';
import type { ObjectChange } from './objects.ts';
import type { Publication } from './publication.ts';
import type { ResourceCaches } from './resource-caches.ts';
import type { World } from './world.ts';

export interface PublisherOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly world: World;
  readonly caches: ResourceCaches;
  readonly acknowledgements: Acknowledgements;
  readonly captureStore: CaptureStore;
  /** Several controllers; see enrolment-sharing.ts. */
  readonly sharing?: EnrolmentSharing | undefined;
  /** After each batch. */
  readonly onPublished: () => void;
  /** How long changes are gathered. Default 50. */
  readonly gatherMs?: number | undefined;
  /** The longest wait for an acknowledgement before things go on without it. Default 5,000. */
  readonly acknowledgeLimitMs?: number;
}

export interface Publisher extends AsyncDisposable {
  /** Publishes what is there; resolves when it is in the caches. Then keeps publishing. */
  start(): Promise<void>;
  /** Takes changes from the source. They are applied together, in slices, before the next batch. */
  apply(changes: readonly ObjectChange[]): void;
  /** Something in the world has changed. */
  poke(): void;
  /** Resolves when everything known now is published. */
  flush(): Promise<void>;
  /** Calls `done` when all nodes have acknowledged everything known now, or had their time. */
  settleAll(done: () => void): void;
  readonly batchCount: number;
}

const GATHER_DEFAULT_MS = 50;
const ACKNOWLEDGE_LIMIT_DEFAULT_MS = 5_000;
/** Writing a large mesh's list with every batch would be most of the work. */
const SAVE_PERIOD_MS = 1_000;
/** Pods that merely ended are taken from what is stored after so long. */
const ENDED_STORE_MS = 30_000;
const OTHERS_LOOK_MS = 50;

export function createPublisher(options: PublisherOptions): Publisher {
  const { clock, logger, world, caches, acknowledgements, captureStore, sharing } = options;
  const { gatherMs = GATHER_DEFAULT_MS } = options;
  const limitMs = options.acknowledgeLimitMs ?? ACKNOWLEDGE_LIMIT_DEFAULT_MS;
  const slice = createTimeSlice(clock);
  const state = { started: false, closed: false };
  /** Bounded by the source, which keeps the same objects. */
  const arrived: (readonly ObjectChange[])[] = [];
  let timer: Timer | undefined;
  let saveTimer: Timer | undefined;
  let endedTimer: Timer | undefined;
  const endedNodes = new Set<string>();
  let running: Promise<void> | undefined;
  let batchCount = 0;
  let savedVersion = 0;
  let savedMs = -Infinity;
  let saving: Promise<void> = Promise.resolve();

  /** Applied in slices too: a folder of 100,000 pods would block for half a second (tried). */
  const applyArrived = async (): Promise<void> => {
    for (let changes = arrived.shift(); changes !== undefined; changes = arrived.shift()) {
      for (const change of changes) {
        world.apply(change);
        if (slice.spent) await slice.yield();
      }
    }
  };

  const collect = async (): Promise<Publication> => {
    const steps = world.collect();
    for (let step = steps.next(); ; step = steps.next()) {
      if (step.done === true) return step.value;
      if (slice.spent) await slice.yield();
    }
  };

  const saveNow = async (): Promise<void> => {
    const version = world.enrolments.version;
    if (version === savedVersion) return;
    savedMs = clock.nowMs();
    try {
      await captureStore.save(world.tunnelledPods());
      savedVersion = version;
    } catch (error) {
      logger.error('Cannot save which pods are captured', { error });
    }
  };

  /** One at a time: two would write over each other's file. */
  const save = (): Promise<void> => (saving = saving.then(saveNow));

  const saveSoon = async (): Promise<void> => {
    const dueMs = savedMs + SAVE_PERIOD_MS - clock.nowMs();
    if (dueMs <= 0) return save();
    saveTimer ??= clock.after(dueMs, () => {
      saveTimer = undefined;
      void save();
    });
  };

  /** Each step is stored before anybody hears of it; what merely ended, with the next or a little later. */
  const storeShared = async (): Promise<void> => {
    if (sharing === undefined) return;
    const stored: Promise<void>[] = [];
    for (const [node, isUrgent] of world.enrolments.takeToStore()) {
      if (isUrgent) {
        endedNodes.delete(node);
        stored.push(sharing.store(node, world.enrolments.phasesOf(node)));
      } else endedNodes.add(node);
    }
    await Promise.all(stored);
    if (endedNodes.size === 0 || endedTimer !== undefined) return;
    endedTimer = clock.after(ENDED_STORE_MS, () => {
      endedTimer = undefined;
      for (const node of endedNodes) void sharing.store(node, world.enrolments.phasesOf(node));
      endedNodes.clear();
    });
  };

  /** Until the nodes of the other controllers have it as well; bounded like every wait. */
  const awaitOthers = (node: string, done: (acknowledged: boolean) => void): void => {
    if (sharing === undefined || sharing.isSettled(node)) {
      done(true);
      return;
    }
    const deadlineMs = clock.nowMs() + limitMs;
    const look = clock.every(OTHERS_LOOK_MS, () => {
      const settled = sharing.isSettled(node);
      if (!settled && clock.nowMs() < deadlineMs && !state.closed) return;
      look.cancel();
      done(settled);
    });
  };

  const awaitSettlements = ({ settlements }: Publication): void => {
    const published = { typeUrl: TYPE_URL.address, generation: caches.address.generation };
    for (const settlement of settlements) {
      const node = settlement.kind === 'pod' ? settlement.node : undefined;
      const finish = (acknowledged: boolean): void => {
        if (!acknowledged) logger.warn('Going on without acknowledgement', { settlement });
        world.settle(settlement);
        poke();
      };
      const done = (acknowledged: boolean): void => {
        const pod =
          settlement.kind === 'pod' ? world.pods.byUid(settlement.podUid)?.pod : undefined;
        if (pod === undefined || node !== undefined) finish(acknowledged);
        else awaitOthers(pod.node, (others) => finish(acknowledged && others));
      };
      acknowledgements.wait({ published, node, limitMs, done });
    }
  };

  const publish = async (): Promise<void> => {
    while ((arrived.length > 0 || world.hasChanges) && !state.closed) {
      // The time since the last batch is nobody's work.
      await slice.yield();
      await applyArrived();
      const publication = await collect();
      await saveSoon();
      await storeShared();
      await caches.apply(publication, slice);
      awaitSettlements(publication);
      batchCount++;
      options.onPublished();
    }
  };

  const run = (): Promise<void> => {
    timer?.cancel();
    timer = undefined;
    running ??= publish()
      .catch((error: unknown) => logger.error('Cannot publish', { error }))
      .finally(() => {
        running = undefined;
      });
    return running;
  };

  const poke = (): void => {
    if (!state.started || state.closed || running !== undefined || timer !== undefined) return;
    timer = clock.after(gatherMs, () => {
      timer = undefined;
      void run();
    });
  };

  return {
    get batchCount() {
      return batchCount;
    },
    async start() {
      state.started = true;
      await run();
      poke();
    },
    apply(changes) {
      arrived.push(changes);
      poke();
    },
    poke,
    async flush() {
      if (!state.started) return;
      await running;
      await run();
    },
    settleAll(done) {
      const wait = async (): Promise<void> => {
        await running;
        await run();
        const published = { typeUrl: TYPE_URL.address, generation: caches.address.generation };
        acknowledgements.wait({ published, node: undefined, limitMs, done });
      };
      if (state.started) void wait();
      else done();
    },
    async [Symbol.asyncDispose]() {
      state.closed = true;
      timer?.cancel();
      saveTimer?.cancel();
      endedTimer?.cancel();
      await running;
      await save();
    },
  };
}
