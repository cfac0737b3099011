-- begin_epoch(expected, epoch) -> 1 | 0 where another epoch stands there than expected; '' for none
-- meta hash: epoch, mark, nonce, before, mark_ms, doubt; j stream
if (redis.call('HGET', META, 'epoch') or '') ~= ARGV[1] then return 0 end
redis.call('HDEL', META, 'doubt', 'nonce', 'before')
redis.call('HSET', META, 'epoch', ARGV[2], 'mark', '0', 'mark_ms', int(now_ms()))
log('epoch', 'epoch', ARGV[2], 'was', ARGV[1])
return 1
