"""Every differentiable operation as a function: ``from imgrec_engine import functional as F``."""

from imgrec_engine.ops.activation import *
from imgrec_engine.ops.arithmetic import *
from imgrec_engine.ops.attention import *
from imgrec_engine.ops.comparison import *
from imgrec_engine.ops.conv2d import *
from imgrec_engine.ops.ctc import *
from imgrec_engine.ops.dropout import *
from imgrec_engine.ops.elementwise import *
from imgrec_engine.ops.embedding import *
from imgrec_engine.ops.indexing import *
from imgrec_engine.ops.joining import *
from imgrec_engine.ops.loss import *
from imgrec_engine.ops.matmul import *
from imgrec_engine.ops.norm import *
from imgrec_engine.ops.pool2d import *
from imgrec_engine.ops.recurrent import *
from imgrec_engine.ops.reduction import *
from imgrec_engine.ops.shape import *
from imgrec_engine.ops.softmax import *
