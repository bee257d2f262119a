/** What a controller needs from where it runs: a folder of files, or a Kubernetes cluster. */

import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { Registry } from '../base/metrics.ts';
import type { Random } from '../base/random.ts';
import type { Authenticator } from '../controlplane/caller.ts';
import type { CaptureStore } from '../controlplane/capture-store.ts';
import type { EnrolmentSharing } from '../controlplane/enrolment-sharing.ts';
import type { ObjectChange } from '../controlplane/objects.ts';
import type { ControlPlane } from '../controlplane/service.ts';
import type { CertificateAuthority } from '../identity/ca.ts';
import type { PluggedCa } from '../identity/plugged-ca.ts';
import type { SelfSignedCa } from '../identity/self-signed-ca.ts';
import type { ControllerConfig } from './config/settings.ts';

export interface EnvironmentParts {
  readonly config: ControllerConfig;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly registry: Registry;
}

export interface ControllerSource {
  /** Resolves when everything was told once. */
  start(): Promise<void>;
  report(): unknown;
}

export interface ControllerEnvironment {
  readonly ca: CertificateAuthority | PluggedCa | SelfSignedCa;
  readonly authenticator: Authenticator;
  readonly captureStore: CaptureStore;
  /** Undefined where there is only one controller. */
  readonly sharing: EnrolmentSharing | undefined;
  /** Makes the roots of `ca` known to those who install node proxies. */
  publishRoots(): Promise<void>;
  createSource(onChanges: (changes: readonly ObjectChange[]) => void): ControllerSource;
  /** Whether this controller, of several, is the one that acts for all. */
  leads(): boolean;
  /** Begins what needs the running control plane. `onAuthorityChanged`: the CA was changed by somebody else. */
  run(onAuthorityChanged: () => void): void;
  /** After each publication: what there is to be said of objects. */
  published(plane: Pick<ControlPlane, 'gatewayApi' | 'troubles' | 'hasPod'>): void;
  /** Before the process ends. */
  leave(): Promise<void>;
}
