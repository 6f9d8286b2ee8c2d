"""Where Ray had ``ray.util.state`` before."""
