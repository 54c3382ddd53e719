# Puts this shell (bash, zsh, sh) into the environment that `make setup` built:  . ./env.sh
# python and `lens` from .venv/, ROS 2 (the sourced one or the wheels in .venv/), the built interfaces, the Fast DDS profile.
# A shell other than bash and zsh cannot say where a sourced file lies: be in this folder there, or set LENS_ROS_ROOT to it.

if [ -n "${BASH_VERSION:-}" ]; then
  LENS_ROS_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
elif [ -n "${ZSH_VERSION:-}" ]; then
  LENS_ROS_ROOT=$(eval 'cd "$(dirname "${(%):-%x}")" && pwd')
else
  LENS_ROS_ROOT=${LENS_ROS_ROOT:-$PWD}
fi

# _lens_ros_prepend NAME FOLDER: FOLDER comes first in the path list NAME, once.
_lens_ros_prepend() {
  eval "_lens_ros_list=\${$1:-}"
  case ":$_lens_ros_list:" in
    *":$2:"*) ;;
    *) eval "export $1=\"\$2\${_lens_ros_list:+:\$_lens_ros_list}\"" ;;
  esac
}

if [ ! -f "$LENS_ROS_ROOT/.venv/lens_ros/overlay" ]; then
  echo "lens_ros: no environment in $LENS_ROS_ROOT/.venv; run \`make setup\` there first" >&2
  unset -f _lens_ros_prepend
  return 1
fi
export LENS_ROS_ROOT

# The scripts below are not ours and read variables that may be unset.
case $- in *u*) _lens_ros_nounset=1; set +u ;; *) _lens_ros_nounset= ;; esac

. "$LENS_ROS_ROOT/.venv/bin/activate"

if [ -f "$LENS_ROS_ROOT/.venv/lens_ros/wheels" ]; then
  # With the libraries found here, the wheels need not start python a second time to set this up themselves.
  for _lens_ros_folder in "$VIRTUAL_ENV"/lib/python3.*/site-packages/ros_*.libs "$VIRTUAL_ENV/lib"; do
    _lens_ros_prepend LD_LIBRARY_PATH "$_lens_ros_folder"
  done
  export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
  export ROS_DISTRO=$(cat "$LENS_ROS_ROOT/.venv/lens_ros/wheels") ROS_VERSION=2 ROS_PYTHON_VERSION=3
  _lens_ros_prepend CMAKE_PREFIX_PATH "$VIRTUAL_ENV"
  COLCON_CURRENT_PREFIX="$LENS_ROS_ROOT/install"
  . "$LENS_ROS_ROOT/install/local_setup.sh"
  unset COLCON_CURRENT_PREFIX
  # Last: the wheels' share folder is not chained to the overlay.
  case ":${AMENT_PREFIX_PATH:-}:" in
    *":$VIRTUAL_ENV:"*) ;;
    *) export AMENT_PREFIX_PATH="${AMENT_PREFIX_PATH:+$AMENT_PREFIX_PATH:}$VIRTUAL_ENV" ;;
  esac
else
  # The overlay knows the ROS 2 that it was built on.
  COLCON_CURRENT_PREFIX="$LENS_ROS_ROOT/install"
  . "$LENS_ROS_ROOT/install/setup.sh"
  unset COLCON_CURRENT_PREFIX
fi

# Set in many containers and CI machines. With it, each start compiles again what was edited since `make setup`.
unset PYTHONDONTWRITEBYTECODE

# The sources come before their installed copies: an edited or added module needs no build.
_lens_ros_prepend PYTHONPATH "$LENS_ROS_ROOT"

# Fast DDS drops best-effort images above 0.5 MB without this profile, and keeps memory for good without the other
# variable, which is for this profile alone. Up to Jazzy the first has its older name.
case "${ROS_DISTRO:-}" in
  humble | iron | jazzy) _lens_ros_profile=FASTRTPS_DEFAULT_PROFILES_FILE ;;
  *) _lens_ros_profile=FASTDDS_DEFAULT_PROFILES_FILE ;;
esac
eval "_lens_ros_own=\${$_lens_ros_profile:-}"
if [ -z "$_lens_ros_own" ]; then
  export "$_lens_ros_profile=$LENS_ROS_ROOT/config/fastdds.xml"
  export RMW_FASTRTPS_USE_QOS_FROM_XML="${RMW_FASTRTPS_USE_QOS_FROM_XML:-1}"
fi

[ -z "$_lens_ros_nounset" ] || set -u
unset _lens_ros_folder _lens_ros_list _lens_ros_nounset _lens_ros_profile _lens_ros_own
unset -f _lens_ros_prepend
