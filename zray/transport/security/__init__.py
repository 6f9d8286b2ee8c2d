"""Who may speak with a broker over TCP.

``keys`` are on disk; ``authenticator`` lets those in who have one; ``dialer`` shows it. None of it knows the protocol:
the code that reads messages sees none from a process that has not been let in.
"""
