"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# A busy machine makes any example slow: how long one takes is no finding.
settings.register_profile("edgemodel", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgemodel")
