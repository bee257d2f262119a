import t from 'tap';

import { createSocketRig } from './relay-rig.ts';
import { relaySuite } from './relay-suite.ts';

relaySuite(t, 'relaySockets', createSocketRig);
