-- kill(value: 0 | 1) -> 1
-- meta hash, kept for ever; j stream
redis.call('HSET', META, 'kill', ARGV[1])
log('kill', 'value', ARGV[1])
return 1
